package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// Security says whom this process talks to, and as whom.
type Security struct {
	insecure  bool
	certFile  string
	keyFile   string
	authority *x509.CertPool
	name      string

	mu      sync.Mutex
	current *tls.Certificate
	looked  time.Time    // when the files were last looked at
	stamps  [2]time.Time // theirs when current was read
}

// Insecure is no security: everything in the clear, everybody is let in. It is
// for loopback, and for networks that are closed by other means.
func Insecure() *Security { return &Security{insecure: true} }

// lookAgain is how often files are looked at for a renewed certificate.
const lookAgain = 10 * time.Second

// LoadSecurity reads the process's certificate and key, and the certificate of
// the authority that all processes' certificates come from. Certificate and
// key are read again when their files change; connections that stand keep the
// old one.
func LoadSecurity(certFile, keyFile, authorityFile string) (*Security, error) {
	s := &Security{certFile: certFile, keyFile: keyFile, authority: x509.NewCertPool()}
	pem, err := os.ReadFile(authorityFile)
	if err != nil {
		return nil, fmt.Errorf("authority's certificate: %w", err)
	}
	if !s.authority.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authority's certificate %s: holds no certificate in PEM", authorityFile)
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	leaf := s.current.Leaf
	s.name = nameOf(leaf)
	if s.name == "" {
		return nil, fmt.Errorf("certificate %s: has neither a common name nor a DNS name", certFile)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: s.authority, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", certFile, explained(leaf, err))
	}
	return s, nil
}

// explained says when a certificate that isn't valid now is.
func explained(leaf *x509.Certificate, err error) error {
	invalid := x509.CertificateInvalidError{}
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("is valid from %s to %s, not now", leaf.NotBefore.Format(time.DateTime), leaf.NotAfter.Format(time.DateTime))
	}
	return err
}

// nameOf is the name of the process that a certificate is for.
func nameOf(c *x509.Certificate) string {
	if c.Subject.CommonName != "" || len(c.DNSNames) == 0 {
		return c.Subject.CommonName
	}
	return c.DNSNames[0]
}

// MayBe reports whether the process may act in a role: it may in all where there
// are no certificates.
func (s *Security) MayBe(role Role) bool {
	return s.insecure || mayBe(s.certificate().Leaf, role)
}

// Name is the process's name by its certificate; "" without one.
func (s *Security) Name() string { return s.name }

// Encrypted reports whether there is security at all.
func (s *Security) Encrypted() bool { return !s.insecure }

// load reads certificate and key. The lock is held, or s is new.
func (s *Security) load() error {
	stamps, err := s.stamp()
	if err != nil {
		return err
	}
	c, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", s.certFile, s.keyFile, err)
	}
	s.current, s.stamps, s.looked = &c, stamps, time.Now()
	return nil
}

func (s *Security) stamp() (t [2]time.Time, err error) {
	for i, file := range []string{s.certFile, s.keyFile} {
		info, err := os.Stat(file)
		if err != nil {
			return t, fmt.Errorf("certificate: %w", err)
		}
		t[i] = info.ModTime()
	}
	return t, nil
}

// certificate is the newest there is. While files are being replaced they may
// not fit each other; then the old one serves on.
func (s *Security) certificate() *tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.looked) >= lookAgain {
		s.looked = time.Now()
		if stamps, err := s.stamp(); err == nil && stamps != s.stamps {
			_ = s.load()
		}
	}
	return s.current
}

// An Audience is who may come in.
type Audience int

const (
	// Nodes are Trestle's own processes, and who looks after them: those whose
	// certificates name a role.
	Nodes Audience = iota
	// Deciders are JobManagers.
	Deciders
	// Anyone is nodes, and clients of jobs.
	Anyone
)

// ServerTLS is the configuration of a listener: both ends show certificates of
// the authority. It must not be called without certificates.
func (s *Security) ServerTLS(who Audience) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  s.authority,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.certificate(), nil
		},
	}
	switch who {
	case Nodes:
		c.VerifyConnection = only("only Trestle's own processes may call here", JobManager, TaskManager, Operator)
	case Deciders:
		c.VerifyConnection = only("only JobManagers may call here", JobManager)
	case Anyone:
	}
	return c
}

// only refuses who has none of the roles.
func only(rule string, roles ...Role) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if leaf := state.PeerCertificates[0]; !mayBe(leaf, roles...) {
			return fmt.Errorf("the certificate of %s: %s", described(leaf), rule)
		}
		return nil
	}
}

// ClientTLS is the configuration of one who dials. The other's certificate must
// be of the authority and name the host that was dialled.
func (s *Security) ClientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    s.authority,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return s.certificate(), nil
		},
	}
}

// Listen opens HOST:PORT for a Server, or for Streams. Without certificates it
// refuses what is open to the network, unless allowed.
func (s *Security) Listen(addr string, allowInsecure bool) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: must be HOST:PORT: %w", addr, err)
	}
	if s.insecure && !allowInsecure && !loopback(host) {
		return nil, fmt.Errorf("listen on %s: is open to the network, and there are no certificates: say which to use (trestle certs makes some), use 127.0.0.1 or localhost, or say --insecure-listen", addr)
	}
	l, err := (&net.ListenConfig{KeepAliveConfig: probes(3 * time.Second)}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err // names the address
	}
	return l, nil
}

// loopback reports hosts that only this machine can reach.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
