package loopnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// proxy stands for a host at a port, until the network ends.
func (n *Network) proxy(to *Host, port string) error {
	l, err := net.Listen("tcp4", net.JoinHostPort(to.Addr, port))
	if err != nil {
		return err
	}
	context.AfterFunc(n.life, func() { l.Close() })
	n.owned.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return // it was closed
			}
			n.owned.Go(func() { n.carry(in, to, port) })
		}
	})
	return nil
}

// carry carries one connection, until both directions have ended.
func (n *Network) carry(in net.Conn, to *Host, port string) {
	from := n.owner(in.RemoteAddr())
	life, end := context.WithCancel(n.life)
	defer end()
	context.AfterFunc(life, func() { in.Close() })
	if n.pass(life, [2]string{from, to.Name}) != nil {
		return
	}
	var d net.Dialer
	out, err := d.DialContext(life, "tcp4", to.Listen(port))
	if err != nil {
		return // as if it were refused
	}
	context.AfterFunc(life, func() { out.Close() })
	back := make(chan struct{})
	n.owned.Go(func() {
		defer close(back)
		n.pump(life, end, out, in, [2]string{to.Name, from})
	})
	n.pump(life, end, in, out, [2]string{from, to.Name})
	<-back
}

// pump carries bytes from src to dst while the way isn't cut, and then src's end:
// half of it, or all if it has broken.
func (n *Network) pump(life context.Context, broken func(), src, dst net.Conn, way [2]string) {
	buf := make([]byte, 64<<10)
	for {
		got, err := src.Read(buf)
		if n.pass(life, way) != nil {
			return
		}
		if got > 0 {
			if _, err := dst.Write(buf[:got]); err != nil {
				broken()
				return
			}
		}
		if err != nil {
			if closer, ok := dst.(*net.TCPConn); !ok || !errors.Is(err, io.EOF) || closer.CloseWrite() != nil {
				broken()
			}
			return
		}
	}
}

// owner is the name of the host whose process has that end of a connection.
func (n *Network) owner(of net.Addr) string {
	addr, ok := of.(*net.TCPAddr)
	if !ok {
		return Here
	}
	inode := socket(addr)
	if inode == "" {
		return Here
	}
	link := "socket:[" + inode + "]"
	owner := Here
	_ = marked(func(pid int, mark string) {
		network, host, _ := strings.Cut(mark, "/")
		if owner != Here || network != n.id {
			return
		}
		open, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range open {
			if to, err := os.Readlink(fd); err == nil && to == link {
				owner = host
				return
			}
		}
	})
	return owner
}

// socket is the number of the socket that is bound to that address and connected,
// as /proc/net/tcp tells; "" if there is none any more.
func socket(addr *net.TCPAddr) string {
	text, err := os.ReadFile("/proc/net/tcp")
	ip := addr.IP.To4()
	if err != nil || ip == nil {
		return ""
	}
	local := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip), addr.Port)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 9 && f[1] == local {
			return f[9]
		}
	}
	return ""
}
