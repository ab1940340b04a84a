package node

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"trestle/jobservice"
	"trestle/raftmeta/catalog"
)

// Flags win over the environment, and that over the file; each setting can be
// said in all three.
func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("# a comment\nmemory: 1GiB\nslots: 3\nrestart_delay: 5s\ninsecure-listen: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(name string) (string, bool) {
		v, ok := map[string]string{"TRESTLE_SLOTS": "5", "TRESTLE_MEMORY": "2GiB"}[name]
		return v, ok
	}
	c := Defaults()
	c.Memory = 3 << 30 // as the flag has said
	if err := Load(&c, func(name string) bool { return name == "memory" }, env, file); err != nil {
		t.Fatal(err)
	}
	if c.Memory != 3<<30 || c.Slots != 5 || c.RestartDelay != 5*time.Second || !c.InsecureListen {
		t.Errorf("%+v", c)
	}
	for _, s := range Settings {
		if strings.ToUpper(strings.ReplaceAll("trestle_"+s.Name, "-", "_")) != s.Env() || s.Help == "" {
			t.Errorf("setting %s: %s, %q", s.Name, s.Env(), s.Help)
		}
		// What a setting shows can be said again.
		if err := s.Of(&c).Set(s.Of(&c).String()); err != nil {
			t.Errorf("setting %s can't be set to what it is: %v", s.Name, err)
		}
	}
}

// All mistakes of a file are told, with their lines.
func TestBadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("memory: lots\nsluts: 3\nslots: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Defaults()
	err := Load(&c, func(string) bool { return false }, func(string) (string, bool) { return "", false }, file)
	if err == nil {
		t.Fatal("taken")
	}
	for _, want := range []string{":1: memory", ":2: there is no setting \"sluts\"", ":3: slots"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	for _, content := range []string{"", "# nothing\n", "- a list\n", "a: [1]\n", "{", "\x00", "memory: {a: b}"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Load(&c, func(string) bool { return false }, func(string) (string, bool) { return "", false }, file)
		if empty := content == "" || content[0] == '#'; (err == nil) != empty {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// A listener open to the network is refused unless it is spelled out.
func TestClosedByDefault(t *testing.T) {
	for addr, ok := range map[string]bool{
		"127.0.0.1:0": true, "[::1]:0": true, "localhost:1": true, "127.8.8.8:1": true,
		":8099": false, "0.0.0.0:8099": false, "[::]:0": false, "10.0.0.1:1": false, "example.com:1": false, "nonsense": false,
	} {
		c := Defaults()
		c.JobAddr = addr
		if errs := c.Validate(); (len(errs) == 0) != ok {
			t.Errorf("%s: %v", addr, errs)
		}
		c.InsecureListen = true
		if errs := c.Validate(); addr != "nonsense" && len(errs) != 0 {
			t.Errorf("%s, spelled out: %v", addr, errs)
		}
	}
	c := Defaults()
	c.Slots, c.Memory, c.LogLevel, c.RestartStrategy, c.RestartAttempts = 0, 1, "loud", "x", -2
	if errs := c.Validate(); len(errs) != 5 {
		t.Errorf("%d errors: %v", len(errs), errors.Join(errs...))
	}
}

// What would mean nothing, or something else than it says, is refused by name.
func TestLeast(t *testing.T) {
	for name, bad := range map[string]string{
		"slots": "0", "memory": "1MiB", "lease": "0s", "reconcile": "0s", "worker-start-timeout": "0s", "prepared-ttl": "1ns",
		"restart-interval": "0s", "target-task-size": "0", "message-log-size": "0", "max-artifact-size": "0", "history-jobs": "0", "snapshot-entries": "0",
	} {
		c := Defaults()
		i := slices.IndexFunc(Settings, func(s Setting) bool { return s.Name == name })
		if err := Settings[i].Of(&c).Set(bad); err != nil {
			t.Fatal(err)
		}
		if errs := c.Validate(); len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), "--"+name+"=") {
			t.Errorf("--%s=%s: %v", name, bad, errs)
		}
	}
}

// Commands of PROCESS environments run for clients on this machine only,
// unless allowed by name.
func TestProcessPolicy(t *testing.T) {
	c := Defaults()
	if p := processPolicy(c); p.Restricted {
		t.Error("restricted on loopback")
	}
	c.JobAddr = "0.0.0.0:8099"
	if p := processPolicy(c); !p.Restricted || len(p.Allowed) != 0 {
		t.Errorf("open to the network: %+v", p)
	}
	c.AllowProcessEnvironments = "/opt/boot, /opt/other,"
	if p := processPolicy(c); !p.Restricted || !slices.Equal(p.Allowed, []string{"/opt/boot", "/opt/other"}) {
		t.Errorf("by name: %+v", p)
	}
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]Size{"512MiB": 512 << 20, "2GiB": 2 << 30, "1.5G": 3 << 29, "100": 100, "1 KB": 1000, "7B": 7} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%s: %d %v", s, got, err)
		}
	}
	for _, s := range []string{"", "x", "-1", "1XB", "NaN", "1e300GiB", "MiB"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("%q is %d", s, got)
		}
	}
	for want, s := range map[string]Size{"512MiB": 512 << 20, "1.5GiB": 3 << 29, "100B": 100} {
		if s.String() != want {
			t.Errorf("%d is %s, want %s", s, s, want)
		}
	}
}

// A job's own word on restarts counts more than the server's, none and for ever
// among them.
func TestRestart(t *testing.T) {
	n := func(i int) *int { return &i }
	server := Defaults()
	for _, tt := range []struct {
		name     string
		job      jobservice.Settings
		kind     catalog.RestartKind
		attempts int
	}{
		{"says nothing", jobservice.Settings{}, catalog.RestartFixedDelay, 2},
		{"none", jobservice.Settings{RestartAttempts: n(0)}, catalog.RestartNone, 0},
		{"more", jobservice.Settings{RestartAttempts: n(7)}, catalog.RestartFixedDelay, 7},
		{"for ever, with growing delays", jobservice.Settings{RestartStrategy: "exponential", RestartAttempts: n(-1)}, catalog.RestartExponential, 0},
		{"for ever", jobservice.Settings{RestartAttempts: n(-1)}, catalog.RestartFixedDelay, math.MaxInt32},
		{"another strategy", jobservice.Settings{RestartStrategy: "failure-rate"}, catalog.RestartFailureRate, 2},
	} {
		if r := restart(tt.job, server); r.Kind != tt.kind || r.Attempts != tt.attempts {
			t.Errorf("%s: %s, %d attempts; want %s, %d", tt.name, r.Kind, r.Attempts, tt.kind, tt.attempts)
		}
	}
}
