package main

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
)

func TestHosts(t *testing.T) {
	for _, c := range []struct {
		rule, host string
		rank       int
	}{{"", "a.b", 0}, {"a.b", "a.b", 2}, {"*.b", "a.b", 1}, {"*.b", "x.a.b", -1}, {"*.b", "b", -1}, {"c.b", "a.b", -1}} {
		if got := hostRank(c.rule, c.host); got != c.rank {
			t.Errorf("hostRank(%q, %q) = %d, want %d", c.rule, c.host, got, c.rank)
		}
	}
}

func TestPaths(t *testing.T) {
	exact, prefix := networkingv1.PathTypeExact, networkingv1.PathTypePrefix
	for _, c := range []struct {
		kind  *networkingv1.PathType
		path  string
		asked string
		rank  int
	}{
		{&exact, "/a", "/a", 1 << 20}, {&exact, "/a", "/a/", -1},
		{&prefix, "/", "/x", 0}, {&prefix, "/a", "/a/b", 2}, {&prefix, "/a/", "/a", 2}, {&prefix, "/a", "/ab", -1},
		{nil, "/a", "/a", 2},
	} {
		rule := networkingv1.HTTPIngressPath{Path: c.path, PathType: c.kind}
		if got := pathRank(rule, c.asked); got != c.rank {
			t.Errorf("pathRank(%q, %q) = %d, want %d", c.path, c.asked, got, c.rank)
		}
	}
}
