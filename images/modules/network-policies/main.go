// The program network-policies enforces NetworkPolicies on a node of a host cluster (`faultline dev host-cluster`), with
// the library of kube-network-policies. It differs from that project's own command in four ways: it runs as a process of
// the node, with a kubeconfig; policies also apply to what pods send to their own node; it works on kernels without
// nftables' queue statement (CONFIG_NFT_QUEUE); and there it sends the first packet of every connection to the queue, not
// only those of selected pods.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"os/signal"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

// The queue that packets wait in for a verdict. If this program doesn't run, the kernel drops them.
const queue = 98

func main() {
	kubeconfig := flag.String("kubeconfig", "", "the kubeconfig, for a user that may list and watch pods, namespaces and network policies")
	node := flag.String("node", "", "the name of this node")
	klog.InitFlags(nil)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *kubeconfig, *node); err != nil {
		klog.ErrorS(err, "network policies are not enforced on this node")
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
}

func run(ctx context.Context, kubeconfig, node string) error {
	missing, err := lacksQueue()
	if err != nil {
		return err
	}
	if missing {
		klog.Info("this kernel has no queue statement (CONFIG_NFT_QUEUE); using the target NFQUEUE of xtables")
		if err := divert(); err != nil {
			return err
		}
	}
	if err := divertToNode(missing); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	// Pods' addresses come from containerd (NRI), so that a policy applies to a pod's first packet.
	controller, err := networkpolicy.NewController(client,
		factory.Networking().V1().NetworkPolicies(), factory.Core().V1().Namespaces(), factory.Core().V1().Pods(),
		nil, nil, nil, nil,
		networkpolicy.Config{QueueID: queue, NodeName: node, NetfilterBug1766Fix: true})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	// Where the queue statement is missing, the controller fails to write rules of its own, logs that, and goes on to
	// give verdicts.
	return controller.Run(ctx)
}

// lacksQueue tries a rule with the queue statement in a table that is removed again.
func lacksQueue() (bool, error) {
	nft, err := nftables.New()
	if err != nil {
		return false, err
	}
	table := nft.AddTable(&nftables.Table{Name: "faultline-probe", Family: nftables.TableFamilyINet})
	chain := nft.AddChain(&nftables.Chain{Name: "probe", Table: table})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Queue{Num: queue}}})
	nft.DelTable(table)
	err = nft.Flush()
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	return false, err
}

// divert sends the first packet of every connection to the queue by the target NFQUEUE, in the same hooks as the
// controller's own rules: DNS requests before they could race in connection tracking, everything else at the end. What the
// node itself sends as root, such as probes, is never refused.
func divert() error {
	nft, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: "faultline-network-policies", Family: nftables.TableFamilyINet}
	nft.AddTable(table)
	nft.DelTable(table)
	nft.AddTable(table)

	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	protocol := func(op expr.CmpOp, number byte) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: op, Register: 1, Data: []byte{number}},
		}
	}
	toDNS := func(op expr.CmpOp) []expr.Any {
		return append(protocol(expr.CmpOpEq, unix.IPPROTO_UDP),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Cmp{Op: op, Register: 1, Data: binaryutil.BigEndian.PutUint16(53)})
	}
	rootsOwn := []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 0, 0, 0}},
	}
	established := []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: []byte{0, 0, 0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0, 0, 0}},
	}
	rules := func(chain *nftables.Chain, accepted ...[]expr.Any) {
		nft.AddChain(chain)
		for _, match := range accepted {
			nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(match, accept)})
		}
		nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{nfqueue(queue)}})
	}
	rules(&nftables.Chain{
		Name: "prerouting", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + 5),
	}, protocol(expr.CmpOpNeq, unix.IPPROTO_UDP), toDNS(expr.CmpOpNeq), established)
	rules(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 5),
	}, toDNS(expr.CmpOpEq), protocol(expr.CmpOpEq, unix.IPPROTO_ICMPV6), rootsOwn, established)
	return nft.Flush()
}

// divertToNode sends the first packet of every connection from a pod to its own node to the queue. The controller's own
// rules are for what the node forwards.
func divertToNode(lacksQueue bool) error {
	nft, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: "faultline-to-node", Family: nftables.TableFamilyINet}
	nft.AddTable(table)
	nft.DelTable(table)
	nft.AddTable(table)
	chain := nft.AddChain(&nftables.Chain{
		Name: "input", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput,
		Priority: nftables.ChainPriorityFilter,
	})
	var verdict expr.Any = &expr.Queue{Num: queue}
	if lacksQueue {
		verdict = nfqueue(queue)
	}
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		// The interfaces of pods.
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte("veth")},
		&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: []byte{0, 0, 0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0, 0, 0}},
		verdict,
	}})
	return nft.Flush()
}

// nfqueue returns the target NFQUEUE in its third revision: the first queue, the number of queues, and flags.
func nfqueue(number uint16) *expr.Target {
	info := make([]byte, 8)
	binary.NativeEndian.PutUint16(info[0:], number)
	binary.NativeEndian.PutUint16(info[2:], 1)
	unknown := xt.Unknown(info)
	return &expr.Target{Name: "NFQUEUE", Rev: 3, Info: &unknown}
}
