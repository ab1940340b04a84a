package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// An Authority makes the certificates of one cluster. Whoever has its key can
// make himself a member: keep it away from the machines that run Trestle.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// A Certificate is one for a process or a client, with its key.
type Certificate struct {
	Name   string
	Expiry time.Time
	cert   []byte // PEM
	key    []byte // PEM
}

const (
	// AuthorityLife and CertificateLife are how long certificates are valid when
	// nobody says otherwise.
	AuthorityLife   = 10 * 365 * 24 * time.Hour
	CertificateLife = 365 * 24 * time.Hour
	// skew is how far the clocks of machines may be apart.
	skew = time.Hour

	authorityName = "ca"
)

// A Life is when a certificate is valid.
type Life struct{ from, to time.Time }

// ValidFor is a life that begins now, as far as clocks agree.
func ValidFor(d time.Duration) Life {
	now := time.Now()
	return Life{now.Add(-skew), now.Add(d)}
}

// NewAuthority makes an authority with a new key.
func NewAuthority(name string, life Life) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: name},
		IsCA:     true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, MaxPathLenZero: true,
		BasicConstraintsValid: true,
	}
	der, err := sign(template, life, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make an authority: %w", err)
	}
	return &Authority{c, key}, nil
}

// sign makes a certificate for a key.
func sign(template *x509.Certificate, life Life, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = life.from, life.to
	return x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
}

// Expiry is when the authority's certificate ends, and all of its.
func (a *Authority) Expiry() time.Time { return a.certificate.NotAfter }

// Node makes the certificate of one of Trestle's own processes, for those roles,
// or for all if there are none. Hosts are the names and addresses under which
// others reach it; its own name, localhost and loopback addresses are among them
// always.
func (a *Authority) Node(name string, hosts []string, life Life, roles ...Role) (*Certificate, error) {
	if len(roles) == 0 {
		roles = []Role{JobManager, TaskManager, Operator}
	}
	template := &x509.Certificate{
		Subject:     subject(name, roles...),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{name, "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return a.issue(name, template, life)
}

// Operator makes a certificate for one who looks after a group. Nobody is served
// with it.
func (a *Authority) Operator(name string, life Life) (*Certificate, error) {
	return a.issue(name, &x509.Certificate{
		Subject:     subject(name, Operator),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, life)
}

// Client makes a certificate for one who submits jobs. It opens job endpoints
// and nothing else.
func (a *Authority) Client(name string, life Life) (*Certificate, error) {
	return a.issue(name, &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, life)
}

func (a *Authority) issue(name string, template *x509.Certificate, life Life) (*Certificate, error) {
	if name == "" {
		return nil, errors.New("make a certificate: it must have a name")
	}
	if life.to.After(a.certificate.NotAfter) {
		life.to = a.certificate.NotAfter
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", name, err)
	}
	der, err := sign(template, life, a.certificate, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", name, err)
	}
	return encoded(name, life.to, der, key)
}

func encoded(name string, expiry time.Time, der []byte, key *ecdsa.PrivateKey) (*Certificate, error) {
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", name, err)
	}
	return &Certificate{
		Name: name, Expiry: expiry,
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}, nil
}

// Save writes NAME.crt and NAME.key, which only their owner can read. It never
// writes over a file: a key that is lost can't be made again.
func (c *Certificate) Save(dir string) error { return c.save(dir, c.Name) }

func (c *Certificate) save(dir, base string) error {
	if base != filepath.Base(base) || base == "." || base == ".." {
		return fmt.Errorf("save certificate: %q can't be a file's name", base)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save certificate: %w", err)
	}
	// The key first: a certificate whose key is missing would look whole.
	for _, f := range []struct {
		suffix  string
		content []byte
	}{{".key", c.key}, {".crt", c.cert}} {
		if err := create(filepath.Join(dir, base+f.suffix), f.content); err != nil {
			return fmt.Errorf("save certificate: %w", err)
		}
	}
	return nil
}

// create writes a new file.
func create(file string, content []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Save writes ca.crt and ca.key, like Certificate.Save.
func (a *Authority) Save(dir string) error {
	c, err := encoded(authorityName, a.Expiry(), a.certificate.Raw, a.key)
	if err != nil {
		return err
	}
	return c.save(dir, authorityName)
}

// LoadAuthority reads what Authority.Save wrote.
func LoadAuthority(dir string) (*Authority, error) {
	base := filepath.Join(dir, authorityName)
	pair, err := tls.LoadX509KeyPair(base+".crt", base+".key")
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("authority: %s.crt is not one that Trestle made", base)
	}
	return &Authority{pair.Leaf, key}, nil
}
