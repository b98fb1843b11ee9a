// Command flanneld is flannel's daemon for a Kubernetes cluster: the main program of flannel v0.28 without what such a
// cluster doesn't use (etcd as the store of leases, and the backends that need a cloud's SDK, a VPN or a helper).
//
// It asks the Kubernetes API for this node's pod CIDR, registers the node's address with the backend, writes the file
// that the CNI plugin `flannel` reads, and keeps the routes to the other nodes' pods. The flags that it knows are
// flannel's own, with flannel's defaults.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/alloc"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr"
	"github.com/flannel-io/flannel/pkg/trafficmngr/iptables"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
	"github.com/joho/godotenv"
	log "k8s.io/klog/v2"
)

// version is set by the linker.
var version = "unknown"

type names []string

func (n *names) String() string { return fmt.Sprint(*n) }

func (n *names) Set(name string) error {
	*n = append(*n, name)
	return nil
}

type options struct {
	kubeSubnetManager bool
	apiURL            string
	kubeconfig        string
	annotationPrefix  string
	interfaces        names
	interfacePatterns names
	canReach          string
	publicIP          string
	masquerade        bool
	fullyRandomOff    bool
	forwardRules      bool
	resyncSeconds     int
	subnetFile        string
	netConf           string
	healthIP          string
	healthPort        int
	setUnavailable    bool
}

func parse() options {
	var o options
	log.InitFlags(flag.CommandLine)
	flag.BoolVar(&o.kubeSubnetManager, "kube-subnet-mgr", false, "ask the Kubernetes API for this node's subnet (required)")
	flag.StringVar(&o.apiURL, "kube-api-url", "", "the API server's URL; not needed in a pod")
	flag.StringVar(&o.kubeconfig, "kubeconfig-file", "", "a kubeconfig; not needed in a pod")
	flag.StringVar(&o.annotationPrefix, "kube-annotation-prefix", "flannel.alpha.coreos.com", "prefix of the node's annotations")
	flag.Var(&o.interfaces, "iface", "interface to other nodes, by name or address; may be repeated, the first match is used")
	flag.Var(&o.interfacePatterns, "iface-regex", "the same by regular expression, tried after --iface")
	flag.StringVar(&o.canReach, "iface-can-reach", "", "use the interface by which this address is reached")
	flag.StringVar(&o.publicIP, "public-ip", "", "this node's address for other nodes")
	flag.BoolVar(&o.masquerade, "ip-masq", false, "masquerade what leaves the pod network")
	flag.BoolVar(&o.fullyRandomOff, "ip-masq-fully-random-disable", false, "don't randomise ports when masquerading")
	flag.BoolVar(&o.forwardRules, "iptables-forward-rules", true, "accept forwarded traffic of the pod network")
	flag.IntVar(&o.resyncSeconds, "iptables-resync", 5, "seconds between looks at the iptables rules")
	flag.StringVar(&o.subnetFile, "subnet-file", "/run/flannel/subnet.env", "file to write the subnet to")
	flag.StringVar(&o.netConf, "net-config-path", "/etc/kube-flannel/net-conf.json", "the network's configuration")
	flag.StringVar(&o.healthIP, "healthz-ip", "0.0.0.0", "address of the health server")
	flag.IntVar(&o.healthPort, "healthz-port", 0, "port of the health server, 0 for none")
	flag.BoolVar(&o.setUnavailable, "set-node-network-unavailable", true, "clear the node's NetworkUnavailable condition when ready")
	showVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *showVersion {
		fmt.Println(version)
		os.Exit(0)
	}
	return o
}

func main() {
	o := parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil && ctx.Err() == nil {
		log.Error(err)
		log.Flush()
		os.Exit(1)
	}
	log.Info("Exiting cleanly...")
}

func run(ctx context.Context, o options) error {
	if !o.kubeSubnetManager {
		return errors.New("this build of flanneld knows Kubernetes only: --kube-subnet-mgr is required")
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()

	manager, err := kube.NewSubnetManager(ctx, o.apiURL, o.kubeconfig, o.annotationPrefix, o.netConf, o.setUnavailable)
	if err != nil {
		return fmt.Errorf("failed to create SubnetManager: %w", err)
	}
	log.Infof("Created subnet manager: %s", manager.Name())

	var ready atomic.Bool
	if o.healthPort > 0 {
		serveHealth(ctx, net.JoinHostPort(o.healthIP, strconv.Itoa(o.healthPort)), &ready)
	}

	config, err := manager.GetNetworkConfig(ctx)
	if err != nil {
		return fmt.Errorf("couldn't fetch network config: %w", err)
	}
	log.Infof("Found network config - Backend type: %s", config.BackendType)
	if !config.EnableIPv4 || config.EnableIPv6 {
		return errors.New("this build of flanneld knows IPv4 only")
	}
	if !config.EnableNFTables {
		if _, err := os.Stat("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
			return fmt.Errorf("failed to check br_netfilter: %w", err)
		}
	}

	external, err := externalInterface(ctx, o, manager)
	if err != nil {
		return err
	}
	chosen, err := backend.NewManager(ctx, manager, external).GetBackend(config.BackendType)
	if err != nil {
		return fmt.Errorf("error fetching backend: %w", err)
	}
	network, err := chosen.RegisterNetwork(ctx, &running, config)
	if err != nil {
		return fmt.Errorf("error registering network: %w", err)
	}
	if err := rules(ctx, o, config, network); err != nil {
		return err
	}

	lease := network.Lease()
	if err := manager.HandleSubnetFile(o.subnetFile, config, o.masquerade, lease.Subnet, lease.IPv6Subnet, network.MTU()); err != nil {
		log.Warningf("Failed to write subnet file: %s", err)
	} else {
		log.Infof("Wrote subnet file to %s", o.subnetFile)
		ready.Store(true)
	}

	log.Info("Running backend.")
	running.Go(func() { network.Run(ctx) })
	if err := manager.CompleteLease(ctx, lease, &running); err != nil {
		log.Errorf("CompleteLease execute error err: %v", err)
	}
	<-ctx.Done()
	return nil
}

// rules sets up masquerading and forwarding.
func rules(ctx context.Context, o options, config *subnet.Config, network backend.Network) error {
	var manager trafficmngr.TrafficManager = &iptables.IPTablesManager{}
	if config.EnableNFTables {
		manager = &nftables.NFTablesManager{}
	}
	if err := manager.Init(ctx); err != nil {
		return err
	}
	if o.masquerade {
		err := manager.SetupAndEnsureMasqRules(ctx,
			config.Network, previous(o.subnetFile, "FLANNEL_SUBNET"), previous(o.subnetFile, "FLANNEL_NETWORK"),
			config.IPv6Network, ip.IP6Net{}, ip.IP6Net{},
			network.Lease(), o.resyncSeconds, o.fullyRandomOff)
		if err != nil {
			return fmt.Errorf("failed to setup masq rules: %w", err)
		}
	}
	if o.forwardRules {
		manager.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, o.resyncSeconds)
	}
	return nil
}

// externalInterface is the interface to the other nodes: the one asked for, or the default route's.
func externalInterface(ctx context.Context, o options, manager subnet.Manager) (*backend.ExternalInterface, error) {
	if stored, _ := manager.GetStoredPublicIP(ctx); stored != "" {
		o.publicIP = stored
	}
	addresses := ipmatch.PublicIPOpts{PublicIP: o.publicIP}
	stack, err := ipmatch.GetIPFamily(true, false)
	if err != nil {
		return nil, err
	}
	if len(o.interfaces) == 0 && len(o.interfacePatterns) == 0 && o.canReach == "" {
		found, err := ipmatch.LookupExtIface(o.publicIP, "", "", stack, addresses)
		if err != nil {
			return nil, fmt.Errorf("failed to find any valid interface to use: %w", err)
		}
		return found, nil
	}
	var tried []error
	try := func(name, pattern, reach string) *backend.ExternalInterface {
		found, err := ipmatch.LookupExtIface(name, pattern, reach, stack, addresses)
		if err != nil {
			tried = append(tried, err)
			return nil
		}
		return found
	}
	for _, name := range o.interfaces {
		if found := try(name, "", ""); found != nil {
			return found, nil
		}
	}
	for _, pattern := range o.interfacePatterns {
		if found := try("", pattern, ""); found != nil {
			return found, nil
		}
	}
	if o.canReach != "" {
		if found := try("", "", o.canReach); found != nil {
			return found, nil
		}
	}
	return nil, fmt.Errorf("no interface matches what was asked for: %w", errors.Join(tried...))
}

// previous is a network that an earlier flanneld wrote to the subnet file, or none.
func previous(file, key string) ip.IP4Net {
	values, err := godotenv.Read(file)
	if err != nil {
		return ip.IP4Net{}
	}
	_, network, err := net.ParseCIDR(values[key])
	if err != nil {
		return ip.IP4Net{}
	}
	return ip.FromIPNet(network)
}

func serveHealth(ctx context.Context, address string, ready *atomic.Bool) {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "flanneld is running")
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			http.Error(w, "flanneld is not ready yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "flanneld is ready")
	})
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.Infof("Start healthz server on %s", address)
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			log.Errorf("Start healthz server error. %v", err)
		}
	}()
	context.AfterFunc(ctx, func() { _ = server.Close() })
}
