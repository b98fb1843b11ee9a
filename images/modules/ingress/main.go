// Command ingress is a small Ingress controller: it serves the Ingresses of one class on ports 80 and 443 of the node
// that it runs on, from the API networking.k8s.io/v1 and nothing else.
//
// Hosts (exact, or with a leading wildcard), paths (Exact, Prefix; ImplementationSpecific counts as Prefix), default
// backends and TLS secrets work as the API specifies. It responds with 404 if no rule matches, and with 503 if the
// rule's Service is missing or has no ready endpoint, and logs why, so that a lab shows the usual symptoms.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/rest"
)

// controllerName is the controller that an IngressClass names to be served by this program.
const controllerName = "faultline.dev/ingress"

type controller struct {
	client    kubernetes.Interface
	classes   networkinglisters.IngressClassLister
	ingresses networkinglisters.IngressLister
	services  corelisters.ServiceLister
	secrets   corelisters.SecretLister
	slices    discoverylisters.EndpointSliceLister
}

func main() {
	httpAddress := flag.String("http", ":80", "where HTTP is served")
	httpsAddress := flag.String("https", ":443", "where HTTPS is served")
	health := flag.String("health", "127.0.0.1:10254", "where /healthz is served")
	address := flag.String("publish", os.Getenv("NODE_IP"), "the address to write into the status of each Ingress")
	flag.Parse()
	if err := run(*httpAddress, *httpsAddress, *health, *address); err != nil {
		log.Fatal(err)
	}
}

func run(httpAddress, httpsAddress, health, address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, err := rest.InClusterConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	c := &controller{
		client:    client,
		classes:   factory.Networking().V1().IngressClasses().Lister(),
		ingresses: factory.Networking().V1().Ingresses().Lister(),
		services:  factory.Core().V1().Services().Lister(),
		secrets:   factory.Core().V1().Secrets().Lister(),
		slices:    factory.Discovery().V1().EndpointSlices().Lister(),
	}
	factory.StartWithContext(ctx)
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("the cache of %v did not fill", kind)
		}
	}
	log.Printf("serving %s and %s", httpAddress, httpsAddress)
	go c.publish(ctx, address)

	healthz := http.NewServeMux()
	healthz.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	plain := &http.Server{Addr: httpAddress, Handler: c, ReadHeaderTimeout: 30 * time.Second}
	secure := &http.Server{
		Addr: httpsAddress, Handler: c, ReadHeaderTimeout: 30 * time.Second,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.certificate},
	}
	failed := make(chan error, 3)
	go func() { failed <- plain.ListenAndServe() }()
	go func() { failed <- secure.ListenAndServeTLS("", "") }()
	go func() { failed <- (&http.Server{Addr: health, Handler: healthz}).ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		ended, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return errors.Join(plain.Shutdown(ended), secure.Shutdown(ended))
	}
}

// served lists the Ingresses of this controller's classes, the oldest first: it wins where two define the same.
func (c *controller) served() []*networkingv1.Ingress {
	classes, _ := c.classes.List(labels.Everything())
	ours := map[string]bool{}
	for _, class := range classes {
		if class.Spec.Controller == controllerName {
			ours[class.Name] = true
			if class.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
				ours[""] = true
			}
		}
	}
	all, _ := c.ingresses.List(labels.Everything())
	var found []*networkingv1.Ingress
	for _, ingress := range all {
		class := ""
		if ingress.Spec.IngressClassName != nil {
			class = *ingress.Spec.IngressClassName
		}
		if ours[class] {
			found = append(found, ingress)
		}
	}
	sort.Slice(found, func(i, j int) bool {
		a, b := found[i], found[j]
		if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
			return a.CreationTimestamp.Before(&b.CreationTimestamp)
		}
		return a.Namespace+"/"+a.Name < b.Namespace+"/"+b.Name
	})
	return found
}

// hostRank returns how well a rule's host matches: 2 exactly, 1 by a wildcard, 0 a rule for all hosts, -1 not at all.
func hostRank(rule, host string) int {
	switch {
	case rule == "":
		return 0
	case rule == host:
		return 2
	case strings.HasPrefix(rule, "*."):
		if _, parent, found := strings.Cut(host, "."); found && parent == rule[2:] {
			return 1
		}
	}
	return -1
}

// pathRank returns how well a path matches: longer is better, an exact one is best, -1 not at all.
func pathRank(path networkingv1.HTTPIngressPath, asked string) int {
	if path.PathType != nil && *path.PathType == networkingv1.PathTypeExact {
		if path.Path == asked {
			return 1 << 20
		}
		return -1
	}
	prefix := strings.TrimSuffix(path.Path, "/")
	if asked == prefix || strings.HasPrefix(asked, prefix+"/") {
		return len(prefix)
	}
	return -1
}

// backend returns the backend that a request is for, with the namespace of its Ingress.
func (c *controller) backend(host, path string) (string, *networkingv1.IngressBackend) {
	var namespace string
	var best *networkingv1.IngressBackend
	rank := [2]int{-1, -1}
	for _, ingress := range c.served() {
		if best == nil && ingress.Spec.DefaultBackend != nil {
			namespace, best = ingress.Namespace, ingress.Spec.DefaultBackend
		}
		for _, rule := range ingress.Spec.Rules {
			byHost := hostRank(rule.Host, host)
			if byHost < 0 || rule.HTTP == nil {
				continue
			}
			for i := range rule.HTTP.Paths {
				byPath := pathRank(rule.HTTP.Paths[i], path)
				if byPath >= 0 && (byHost > rank[0] || byHost == rank[0] && byPath > rank[1]) {
					rank = [2]int{byHost, byPath}
					namespace, best = ingress.Namespace, &rule.HTTP.Paths[i].Backend
				}
			}
		}
	}
	return namespace, best
}

// target returns the address of a ready endpoint of a backend's Service.
func (c *controller) target(namespace string, backend *networkingv1.IngressBackend) (*url.URL, error) {
	if backend.Service == nil {
		return nil, errors.New("its backend is no Service")
	}
	name := backend.Service.Name
	service, err := c.services.Services(namespace).Get(name)
	if err != nil {
		return nil, fmt.Errorf("there is no Service %s/%s", namespace, name)
	}
	var port *corev1.ServicePort
	for i, offered := range service.Spec.Ports {
		if offered.Port == backend.Service.Port.Number || offered.Name != "" && offered.Name == backend.Service.Port.Name {
			port = &service.Spec.Ports[i]
		}
	}
	if port == nil {
		return nil, fmt.Errorf("Service %s/%s has no such port", namespace, name)
	}
	of := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name})
	slices, _ := c.slices.EndpointSlices(namespace).List(of)
	for _, slice := range slices {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				return &url.URL{Scheme: "http", Host: fmt.Sprintf("%s:%d", service.Spec.ClusterIP, port.Port)}, nil
			}
		}
	}
	return nil, fmt.Errorf("Service %s/%s has no ready endpoint", namespace, name)
}

func (c *controller) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, _ := strings.Cut(r.Host, ":")
	namespace, backend := c.backend(host, r.URL.Path)
	if backend == nil {
		http.Error(w, "404 no Ingress has a rule for this host and path", http.StatusNotFound)
		return
	}
	to, err := c.target(namespace, backend)
	if err != nil {
		log.Printf("%s %s%s: 503, %v", r.Method, host, r.URL.Path, err)
		http.Error(w, "503 Service Temporarily Unavailable", http.StatusServiceUnavailable)
		return
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(to)
			p.Out.Host = p.In.Host
			p.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			log.Printf("%s %s%s: 502, %v", r.Method, host, r.URL.Path, err)
			http.Error(w, "502 Bad Gateway", http.StatusBadGateway)
		},
	}
	proxy.ServeHTTP(w, r)
}

// certificate finds the TLS secret for a name.
func (c *controller) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	for _, ingress := range c.served() {
		for _, entry := range ingress.Spec.TLS {
			for _, host := range entry.Hosts {
				if hostRank(host, hello.ServerName) < 1 {
					continue
				}
				secret, err := c.secrets.Secrets(ingress.Namespace).Get(entry.SecretName)
				if err != nil {
					return nil, fmt.Errorf("there is no Secret %s/%s", ingress.Namespace, entry.SecretName)
				}
				pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
				return &pair, err
			}
		}
	}
	return nil, fmt.Errorf("no Ingress has a certificate for %q", hello.ServerName)
}

// publish writes this controller's address into the status of what it serves.
func (c *controller) publish(ctx context.Context, address string) {
	if address == "" {
		return
	}
	want := []networkingv1.IngressLoadBalancerIngress{{IP: address}}
	for ctx.Err() == nil {
		for _, ingress := range c.served() {
			now := ingress.Status.LoadBalancer.Ingress
			if len(now) == 1 && now[0].IP == address {
				continue
			}
			changed := ingress.DeepCopy()
			changed.Status.LoadBalancer.Ingress = want
			_, err := c.client.NetworkingV1().Ingresses(ingress.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
			if err != nil {
				log.Printf("the status of %s/%s was not written: %v", ingress.Namespace, ingress.Name, err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}
}
