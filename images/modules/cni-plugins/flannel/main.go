// Command flannel is the CNI plugin that joins pods to flannel's network. It has no network code of its own: from the
// file that flanneld writes (/run/flannel/subnet.env) it makes the configuration of another plugin, by default `bridge`
// with `host-local` addresses from this node's pod subnet, and calls that one.
//
// Configuration, file and folder are those of flannel's own plugin.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	defaultSubnetFile = "/run/flannel/subnet.env"
	defaultDataDir    = "/var/lib/cni/flannel"
)

type config struct {
	types.NetConf
	SubnetFile string         `json:"subnetFile"`
	DataDir    string         `json:"dataDir"`
	Delegate   map[string]any `json:"delegate"`
	Runtime    map[string]any `json:"runtimeConfig,omitempty"`
	// Routes beside the pod network's, added to what the delegate is told.
	IPAM struct {
		Routes []any `json:"routes"`
	} `json:"ipam"`
}

type subnetEnv struct {
	networks   []string
	subnet     string
	mtu        int
	masquerade bool
}

// release is set by the linker.
var release = "unknown"

func main() {
	skel.PluginMainFuncs(
		skel.CNIFuncs{Add: add, Del: del, Check: check},
		version.All,
		"CNI plugin flannel (Faultline) "+release,
	)
}

func add(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	env, err := readSubnetEnv(c.SubnetFile)
	if err != nil {
		return fmt.Errorf("failed to load flannel 'subnet.env' file: %w. Check the flannel pod log for this node", err)
	}
	plugin, conf, err := delegate(c, env)
	if err != nil {
		return err
	}
	// What was delegated is kept, so that removal doesn't depend on flanneld.
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.DataDir, args.ContainerID), conf, 0o600); err != nil {
		return err
	}
	result, err := invoke.DelegateAdd(context.Background(), plugin, conf, nil)
	if err != nil {
		return fmt.Errorf("failed to delegate add: %w", err)
	}
	return types.PrintResult(result, c.CNIVersion)
}

func del(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	plugin, conf, err := kept(c, args.ContainerID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // never added, or removed already
	}
	if err != nil {
		return err
	}
	if err := invoke.DelegateDel(context.Background(), plugin, conf, nil); err != nil {
		return fmt.Errorf("failed to delegate del: %w", err)
	}
	return os.Remove(filepath.Join(c.DataDir, args.ContainerID))
}

func check(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	plugin, conf, err := kept(c, args.ContainerID)
	if err != nil {
		return err
	}
	// The delegate compares with what it answered at first, which the runtime hands to us.
	var whole, given map[string]any
	if err := errors.Join(json.Unmarshal(conf, &whole), json.Unmarshal(args.StdinData, &given)); err != nil {
		return err
	}
	if given["prevResult"] == nil {
		return errors.New("required prevResult is missing")
	}
	whole["prevResult"] = given["prevResult"]
	if conf, err = json.Marshal(whole); err != nil {
		return err
	}
	if err := invoke.DelegateCheck(context.Background(), plugin, conf, nil); err != nil {
		return fmt.Errorf("failed to delegate check: %w", err)
	}
	return nil
}

func parse(stdin []byte) (*config, error) {
	c := &config{SubnetFile: defaultSubnetFile, DataDir: defaultDataDir}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, fmt.Errorf("failed to load netconf: %w", err)
	}
	if c.Delegate == nil {
		c.Delegate = map[string]any{}
	}
	if t, ok := c.Delegate["type"]; ok {
		if _, ok := t.(string); !ok {
			return nil, errors.New("'delegate' dictionary, if present, must have (string) 'type' field")
		}
	}
	for _, reserved := range []string{"name", "ipam"} {
		if _, ok := c.Delegate[reserved]; ok {
			return nil, fmt.Errorf("'delegate' dictionary must not have '%s' field, it'll be set by flannel", reserved)
		}
	}
	return c, nil
}

// delegate is the plugin to call and its configuration.
func delegate(c *config, env *subnetEnv) (string, []byte, error) {
	d := c.Delegate
	setDefault := func(key string, value any) {
		if _, ok := d[key]; !ok {
			d[key] = value
		}
	}
	d["name"] = c.Name
	d["cniVersion"] = c.CNIVersion
	setDefault("type", "bridge")
	setDefault("ipMasq", !env.masquerade)
	setDefault("mtu", env.mtu)
	if d["type"] == "bridge" {
		setDefault("isGateway", true)
	}
	if c.Runtime != nil {
		d["runtimeConfig"] = c.Runtime
	}
	routes := c.IPAM.Routes
	for _, network := range env.networks {
		routes = append(routes, map[string]any{"dst": network})
	}
	d["ipam"] = map[string]any{
		"type":   "host-local",
		"ranges": [][]any{{map[string]any{"subnet": env.subnet}}},
		"routes": routes,
	}
	conf, err := json.Marshal(d)
	return d["type"].(string), conf, err
}

func kept(c *config, container string) (string, []byte, error) {
	conf, err := os.ReadFile(filepath.Join(c.DataDir, container))
	if err != nil {
		return "", nil, err
	}
	var plugin types.NetConf
	if err := json.Unmarshal(conf, &plugin); err != nil {
		return "", nil, fmt.Errorf("failed to parse what was delegated: %w", err)
	}
	return plugin.Type, conf, nil
}

func readSubnetEnv(path string) (*subnetEnv, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	env := &subnetEnv{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "=")
		switch key {
		case "FLANNEL_NETWORK":
			env.networks = strings.Split(value, ",")
		case "FLANNEL_SUBNET":
			_, subnet, err := net.ParseCIDR(value)
			if err != nil {
				return nil, err
			}
			env.subnet = subnet.String()
		case "FLANNEL_MTU":
			if env.mtu, err = strconv.Atoi(value); err != nil {
				return nil, err
			}
		case "FLANNEL_IPMASQ":
			env.masquerade = value == "true"
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(env.networks) == 0 || env.subnet == "" || env.mtu == 0 {
		return nil, fmt.Errorf("%s is missing FLANNEL_NETWORK, FLANNEL_SUBNET or FLANNEL_MTU", path)
	}
	return env, nil
}
