package node

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"trestle/internal/cluster"

	"golang.org/x/sys/unix"
)

// ports are a process's listeners; those that its role doesn't have are nil.
type ports struct {
	job     net.Listener
	jobTLS  net.Listener // speaks TLS
	web     net.Listener
	cluster *split
	data    net.Listener
}

func (p *ports) open(cfg Config, security *cluster.Security) (err error) {
	if cfg.Role&JobManager != 0 {
		if p.job, err = listenTCP("job-addr", cfg.JobAddr); err != nil {
			return err
		}
		if cfg.JobTLSAddr != "" {
			l, err := listenTCP("job-tls-addr", cfg.JobTLSAddr)
			if err != nil {
				return err
			}
			config := security.ServerTLS(cluster.Anyone)
			config.NextProtos = []string{"h2"}
			p.jobTLS = tls.NewListener(l, config)
		}
	}
	if p.web, err = listenTCP("web-addr", cfg.WebAddr); err != nil {
		return err
	}
	switch cfg.Role {
	case JobManager:
		l, err := security.Listen(cfg.ClusterAddr, cfg.InsecureListen)
		if err != nil {
			return fmt.Errorf("--cluster-addr=%s: %w", cfg.ClusterAddr, err)
		}
		p.cluster = newSplit(l)
	case TaskManager:
		if p.data, err = security.Listen(cfg.DataAddr, cfg.InsecureListen); err != nil {
			return fmt.Errorf("--data-addr=%s: %w", cfg.DataAddr, err)
		}
	}
	return nil
}

func listenTCP(setting, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--%s=%s: %w", setting, addr, err)
	}
	return l, nil
}

func (p *ports) close() {
	for _, l := range []net.Listener{p.job, p.jobTLS, p.web, p.data} {
		if l != nil {
			l.Close()
		}
	}
	if p.cluster != nil {
		p.cluster.Listener.Close()
	}
}

func (p *ports) ready() Ready {
	var r Ready
	for _, x := range []struct {
		l    net.Listener
		text *string
	}{{p.job, &r.Job}, {p.jobTLS, &r.JobTLS}, {p.web, &r.Web}, {p.data, &r.Data}} {
		if x.l != nil {
			*x.text = x.l.Addr().String()
		}
	}
	if p.cluster != nil {
		r.Cluster = p.cluster.Listener.Addr().String()
	}
	return r
}

// advertised is what others dial to come to a listener of ours.
func advertised(cfg Config, l net.Listener) (string, error) {
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "", err
	}
	if cfg.Advertise == "" {
		host, _, _ := net.SplitHostPort(l.Addr().String())
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			return "", errors.New("--advertise: which address others are to dial must be said, as this process listens on all of the host's")
		}
		return l.Addr().String(), nil
	}
	host, wanted, err := net.SplitHostPort(cfg.Advertise)
	if err != nil {
		return "", fmt.Errorf("--advertise=%s: must be HOST:PORT: %w", cfg.Advertise, err)
	}
	if wanted == "0" {
		wanted = port
	}
	return net.JoinHostPort(host, wanted), nil
}

// lockDirectory makes the directory, and keeps other processes out of it until
// the file is closed.
func lockDirectory(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("data directory %s: another process has it: %w", dir, err)
	}
	return lock, nil
}
