package fnapi

import (
	"net"
	"strings"
	"testing"
)

func TestDialURL(t *testing.T) {
	loopback := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}
	for _, c := range []struct {
		addr net.Addr
		host string
		want string
	}{
		{loopback, "", "127.0.0.1:80"},
		{loopback, "runner.example", "runner.example:80"},
		{&net.TCPAddr{IP: net.IPv6loopback, Port: 80}, "", "[::1]:80"},
		{&net.TCPAddr{IP: net.IPv4zero, Port: 80}, "", "127.0.0.1:80"},
		{&net.TCPAddr{IP: net.IPv6unspecified, Port: 80}, "", "127.0.0.1:80"},
		{&net.UnixAddr{Name: "/run/s", Net: "unix"}, "runner.example", "unix:///run/s"},
	} {
		if got := dialURL(c.addr, c.host); got != c.want {
			t.Errorf("dialURL(%v, %q) = %q, want %q", c.addr, c.host, got, c.want)
		}
	}
}

// An id is random, and safe in headers and file names whatever the name is.
func TestAdmitID(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := NewServer(Options{}, l, nil); err == nil {
		t.Error("a server without data listeners was made")
	}
	s, err := NewServer(Options{}, l, []net.Listener{l})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for range 100 {
		w, err := s.Admit(Admission{Name: "größe/../1"})
		if err != nil {
			t.Fatal(err)
		}
		secret, ok := strings.CutPrefix(w.ID(), "gr--e----1-")
		if !ok || len(secret) != 32 || seen[secret] {
			t.Fatalf("id %q", w.ID())
		}
		seen[secret] = true
	}
}
