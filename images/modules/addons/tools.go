//go:build tools

// Package tools pins the commands that are built from this module as they are.
package tools

import (
	_ "github.com/flannel-io/flannel/cmd/install_conf"
	_ "sigs.k8s.io/kube-network-policies/cmd"
	_ "sigs.k8s.io/metrics-server/cmd/metrics-server"
)
