package cluster

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func authority(t *testing.T) (a *Authority, dir string) {
	t.Helper()
	dir = t.TempDir()
	a, err := NewAuthority("test cluster", ValidFor(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	if a, err = LoadAuthority(dir); err != nil {
		t.Fatal(err)
	}
	return a, dir
}

// member is the Security of a process with the certificate, checked by the
// authority in dir.
func member(t *testing.T, dir string, c *Certificate, err error) *Security {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	own := t.TempDir()
	if err := c.Save(own); err != nil {
		t.Fatal(err)
	}
	s, err := LoadSecurity(filepath.Join(own, c.Name+".crt"), filepath.Join(own, c.Name+".key"), filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func node(t *testing.T, a *Authority, dir, name string) *Security {
	t.Helper()
	c, err := a.Node(name, []string{"10.9.8.7", name + ".example"}, ValidFor(CertificateLife))
	return member(t, dir, c, err)
}

// Processes of one authority know each other by name.
func TestMutual(t *testing.T) {
	a, dir := authority(t)
	addr := serve(t, node(t, a, dir, "jm1"), ask.Serve(answered))
	to := dialer(t, node(t, a, dir, "tm1")).To(addr)
	got, err := ask.Do(within(t), to, &question{Text: "hello"})
	if err != nil || got.Caller != "tm1" {
		t.Errorf("the caller is %+v, %v", got, err)
	}
	if name, err := to.Ping(within(t)); err != nil || name != "jm1" {
		t.Errorf("the server is %q, %v", name, err)
	}
}

// Whoever has no fitting certificate stays outside, and is told why.
func TestStrangers(t *testing.T) {
	a, dir := authority(t)
	other, otherDir := authority(t)
	jm := node(t, a, dir, "jm1")
	addr := serve(t, jm, ask.Serve(answered))
	client, err := a.Client("alice", ValidFor(time.Hour))
	forged := node(t, other, otherDir, "tm1")
	forged.authority = jm.authority // it trusts us, we don't trust it
	for _, c := range []struct {
		name string
		as   *Security
		want string
	}{
		{"of another authority", node(t, other, otherDir, "tm1"), "unknown authority"},
		{"of another authority that doesn't look at ours", forged, ""},
		{"in the clear", Insecure(), ""},
		{"a client's", member(t, dir, client, err), ""},
	} {
		_, err := ask.Do(within(t), dialer(t, c.as).To(addr), &question{})
		if !IsUnreachable(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// A server in the clear is not talked to by one who has certificates.
	if _, err := ask.Do(within(t), dialer(t, jm).To(serve(t, Insecure(), ask.Serve(answered))), &question{}); !IsUnreachable(err) {
		t.Errorf("a server in the clear: %v", err)
	}
	// Nor one whose certificate is for other hosts.
	mute := *node(t, a, dir, "jm2").current
	named := &Security{authority: jm.authority, name: "x", current: &mute, looked: time.Now().Add(time.Hour)}
	_, port, _ := net.SplitHostPort(serve(t, named, ask.Serve(answered)))
	if _, err := ask.Do(within(t), dialer(t, jm).To("127.0.0.2:"+port), &question{}); !IsUnreachable(err) {
		t.Errorf("another host's certificate: %v", err)
	}
}

// A certificate that has ended is refused: by its owner's start, and by others.
func TestExpired(t *testing.T) {
	a, dir := authority(t)
	past := Life{time.Now().Add(-2 * time.Hour), time.Now().Add(-time.Hour)}
	c, err := a.Node("old", nil, past)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Save(dir); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, "old")
	if _, err := LoadSecurity(base+".crt", base+".key", filepath.Join(dir, "ca.crt")); err == nil || !strings.Contains(err.Error(), "is valid from") {
		t.Errorf("its start: %v", err)
	}
	old := node(t, a, dir, "tm1")
	old.certFile, old.keyFile = base+".crt", base+".key"
	if err := old.load(); err != nil {
		t.Fatal(err)
	}
	young := node(t, a, dir, "jm1")
	_, err = ask.Do(within(t), dialer(t, old).To(serve(t, young, ask.Serve(answered))), &question{})
	if !IsUnreachable(err) {
		t.Errorf("as a caller: %v", err)
	}
	_, err = ask.Do(within(t), dialer(t, young).To(serve(t, old, ask.Serve(answered))), &question{})
	if !IsUnreachable(err) || !strings.Contains(err.Error(), "expired") {
		t.Errorf("as a server: %v", err)
	}
}

// A renewed certificate is used without a restart; half a renewal is not.
func TestRenewed(t *testing.T) {
	a, dir := authority(t)
	s := node(t, a, dir, "tm1")
	before := s.certificate()
	renewed, err := a.Node("tm1", nil, ValidFor(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	replace := func(file string, content []byte, age time.Duration) {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(age)
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
		s.looked = time.Time{}
	}
	replace(s.certFile, renewed.cert, time.Minute)
	if s.certificate() != before {
		t.Error("a certificate without its key was taken")
	}
	replace(s.keyFile, renewed.key, 2*time.Minute)
	if s.certificate() == before {
		t.Error("the renewed certificate is not used")
	}
}

// Keys are for their owner alone, and never written over.
func TestFiles(t *testing.T) {
	a, dir := authority(t)
	for _, name := range []string{"ca.key", "ca.crt"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if err := a.Save(dir); !errors.Is(err, os.ErrExist) {
		t.Errorf("saved twice: %v", err)
	}
	for _, name := range []string{"..", "a/b", "/x"} {
		c, err := a.Node(name, nil, ValidFor(time.Hour))
		if err != nil {
			continue
		}
		if err := c.Save(dir); err == nil {
			t.Errorf("%q became a file", name)
		}
	}
	c, err := a.Node("tm1", nil, ValidFor(1000*time.Hour))
	if err != nil || c.Expiry.After(a.Expiry()) {
		t.Errorf("%v: a certificate must not outlive its authority: %v", err, c.Expiry)
	}
}

// What is open to the network needs certificates, or the word for it.
func TestClosedByDefault(t *testing.T) {
	a, dir := authority(t)
	secure := node(t, a, dir, "jm1")
	for _, c := range []struct {
		addr            string
		open, encrypted bool
	}{{"127.0.0.1:0", true, true}, {"localhost:0", true, true}, {"0.0.0.0:0", false, true}, {":0", false, true}, {"nonsense", false, false}} {
		for s, want := range map[*Security]bool{Insecure(): c.open, secure: c.encrypted} {
			l, err := s.Listen(c.addr, false)
			if (err == nil) != want {
				t.Errorf("%s, encrypted %v: %v", c.addr, s.Encrypted(), err)
			}
			if err == nil {
				_ = l.Close()
			}
		}
	}
	l, err := Insecure().Listen("0.0.0.0:0", true)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

// Streams carry another protocol's bytes between members, and refuse others.
func TestStreams(t *testing.T) {
	a, dir := authority(t)
	for _, pair := range [][2]*Security{{Insecure(), Insecure()}, {node(t, a, dir, "jm1"), node(t, a, dir, "jm2")}} {
		l, err := pair[0].Listen("127.0.0.1:0", false)
		if err != nil {
			t.Fatal(err)
		}
		in := pair[0].Streams(l, "echo")
		in.patience = 500 * time.Millisecond
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := in.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { _, _ = io.Copy(c, c); _ = c.Close() })
			}
		})
		out := pair[1].Streams(nil, "echo")
		c, err := out.Dial(l.Addr().String(), patient)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
			t.Fatalf("%q %v", b, err)
		}
		_ = c.Close()
		if pair[0].Encrypted() {
			refused(t, l.Addr().String(), pair[1])
		}
		_ = l.Close()
		wg.Wait()
	}
}

func refused(t *testing.T, addr string, member *Security) {
	t.Helper()
	if c, err := member.Streams(nil, "other").Dial(addr, patient); err == nil {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("another protocol was let in")
		}
		_ = c.Close()
	}
	if _, err := ask.Do(within(t), dialer(t, member).To(addr), &question{}); !IsUnreachable(err) {
		t.Errorf("a call to the streams' port: %v", err)
	}
	// One who says nothing is hung up on.
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
}
