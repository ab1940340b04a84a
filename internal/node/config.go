// Package node joins the rooms of Trestle to a running process. It is the only
// package that sees all of them, and decides nothing that they could.
//
// Config holds all that can be set. One table (Settings) says how each setting
// is called, written and explained; flags, TRESTLE_ environment variables and
// the config file are all read by it.
//
// A Node is one process: a JobManager, a TaskManager, or both at once, which is
// the embedded Trestle. Run serves until its context ends and leaves no
// goroutine, child process or temporary file behind.
package node

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"trestle/raftmeta"

	"golang.org/x/sys/unix"
)

// A Role is what a process is there for.
type Role uint

const (
	JobManager  Role = 1 << iota // takes jobs and decides
	TaskManager                  // runs tasks
	Embedded    = JobManager | TaskManager
)

// A Config is all that can be set. Start from Defaults.
type Config struct {
	Role Role // not a setting: each has a command of its own

	JobAddr    string
	JobTLSAddr string
	WebAddr    string
	Data       string
	ReadyFile  string

	Name         string
	ClusterAddr  string // of a JobManager, for other processes
	DataAddr     string // of a TaskManager, for other TaskManagers
	Advertise    string // where others reach either of the two; "" is as it listens
	Members      string // NAME=HOST:PORT,… that found a group of JobManagers
	Join         bool   // wait to be added to a group
	JobManagers  string // HOST:PORT,… that a TaskManager reports to
	BlobStore    string // URL of a bucket for pipelines and plans
	ShuffleStore string // URL of a bucket for blocking partitions
	Lease        time.Duration
	Reconcile    time.Duration
	TLSCert      string
	TLSKey       string
	TLSCA        string

	Memory                Size
	Slots                 int
	WorkersPerEnvironment int
	WorkerStartTimeout    time.Duration

	ExchangeMode    string
	RestartStrategy string
	RestartAttempts int
	RestartDelay    time.Duration
	RestartMaxDelay time.Duration
	RestartInterval time.Duration
	TargetTaskSize  Size

	InsecureListen           bool
	AllowProcessEnvironments string // "auto", "all", "none", or commands with commas between
	PreparedTTL              time.Duration
	MessageLogSize           Size
	MaxArtifactSize          Size
	HistoryJobs              int
	SnapshotEntries          int
	LogLevel                 string
	LogFormat                string
	Profiles                 bool
	StopTimeout              time.Duration
}

// Defaults are the settings of a Trestle that was told nothing.
func Defaults() Config {
	return Config{
		Role:                     Embedded,
		ClusterAddr:              "127.0.0.1:8098",
		DataAddr:                 "127.0.0.1:0",
		Lease:                    10 * time.Second,
		Reconcile:                10 * time.Second,
		JobAddr:                  "127.0.0.1:8099",
		WebAddr:                  "127.0.0.1:8081",
		Data:                     "trestle-data",
		Memory:                   Size(machineMemory() / 2),
		Slots:                    runtime.GOMAXPROCS(0),
		WorkerStartTimeout:       time.Minute,
		ExchangeMode:             "pointwise-pipelined",
		RestartStrategy:          "fixed-delay",
		RestartAttempts:          2,
		RestartDelay:             250 * time.Millisecond,
		RestartMaxDelay:          time.Minute,
		RestartInterval:          10 * time.Minute,
		TargetTaskSize:           64 << 20,
		AllowProcessEnvironments: "auto",
		PreparedTTL:              time.Hour,
		MessageLogSize:           64 << 20,
		MaxArtifactSize:          8 << 30,
		HistoryJobs:              1000,
		SnapshotEntries:          4096,
		LogLevel:                 "info",
		LogFormat:                "text",
		StopTimeout:              8 * time.Second,
	}
}

// DefaultsOf are those of a process of that role: several may share a machine.
func DefaultsOf(role Role) Config {
	c := Defaults()
	c.Role = role
	switch role {
	case JobManager:
		c.Data = "trestle-jobmanager"
	case TaskManager:
		c.Data, c.WebAddr = "trestle-taskmanager", "127.0.0.1:0"
		c.StopTimeout = 10 * time.Minute // to finish what runs
	}
	return c
}

// leastMemory is what a process needs to move data at all.
const leastMemory = 64 << 20

// Validate tells all that is wrong with a Config, in the settings' names.
func (c *Config) Validate() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Slots < 1 || c.Slots > 4096 {
		bad("--slots=%d: must be from 1 to 4096", c.Slots)
	}
	if c.Memory < leastMemory {
		bad("--memory=%s: must be at least %s", c.Memory, Size(leastMemory))
	}
	if c.WorkersPerEnvironment < 0 || c.WorkersPerEnvironment > 1024 {
		bad("--workers-per-environment=%d: must be from 0 (chosen by the runner) to 1024", c.WorkersPerEnvironment)
	}
	oneOf := func(name, value string, values ...string) {
		for _, v := range values {
			if v == value {
				return
			}
		}
		bad("--%s=%s: must be one of %s", name, value, strings.Join(values, ", "))
	}
	oneOf("exchange-mode", c.ExchangeMode, "all-blocking", "pointwise-pipelined", "all-pipelined")
	oneOf("restart-strategy", c.RestartStrategy, "none", "fixed-delay", "exponential", "failure-rate")
	oneOf("log-level", c.LogLevel, "debug", "info", "warn", "error")
	oneOf("log-format", c.LogFormat, "text", "json")
	if c.RestartAttempts < -1 {
		bad("--restart-attempts=%d: must be -1 (as many as it takes), 0 (none) or more", c.RestartAttempts)
	}
	if c.SnapshotEntries < 1 {
		bad("--snapshot-entries=%d: must be at least 1", c.SnapshotEntries)
	}
	if c.Data == "" {
		bad("--data: a directory is needed")
	}
	for _, a := range []struct{ name, addr string }{{"job-addr", c.JobAddr}, {"web-addr", c.WebAddr}} {
		if err := CheckAddress(a.addr, c.InsecureListen); err != nil {
			bad("--%s=%s: %w", a.name, a.addr, err)
		}
	}
	return slices.Concat(errs, c.validateLeast(), c.validateGroup())
}

// leastMessages is what a job's last words need.
const leastMessages = 64 << 10

// validateLeast tells which times and amounts are too small to mean anything.
func (c *Config) validateLeast() (errs []error) {
	for _, t := range []struct {
		name        string
		told, least time.Duration
	}{
		{"lease", c.Lease, 100 * time.Millisecond},
		{"reconcile", c.Reconcile, 100 * time.Millisecond},
		{"worker-start-timeout", c.WorkerStartTimeout, time.Second},
		{"prepared-ttl", c.PreparedTTL, time.Second},
		{"restart-interval", c.RestartInterval, time.Millisecond},
	} {
		if t.told < t.least {
			errs = append(errs, fmt.Errorf("--%s=%s: must be at least %s", t.name, t.told, t.least))
		}
	}
	for _, s := range []struct {
		name        string
		told, least Size
	}{
		{"target-task-size", c.TargetTaskSize, 1},
		{"message-log-size", c.MessageLogSize, leastMessages},
		{"max-artifact-size", c.MaxArtifactSize, 1},
	} {
		if s.told < s.least {
			errs = append(errs, fmt.Errorf("--%s=%s: must be at least %s", s.name, s.told, s.least))
		}
	}
	if c.HistoryJobs < 1 {
		errs = append(errs, fmt.Errorf("--history-jobs=%d: must be at least 1, so that a job's author can see how it ended", c.HistoryJobs))
	}
	return errs
}

// validateGroup tells what is wrong with how a process is to meet others.
func (c *Config) validateGroup() (errs []error) {
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	given := 0
	for _, f := range []string{c.TLSCert, c.TLSKey, c.TLSCA} {
		if f != "" {
			given++
		}
	}
	if given != 0 && given != 3 {
		bad("--tls-cert, --tls-key and --tls-ca: all three are needed, or none")
	}
	if c.JobTLSAddr != "" && given == 0 {
		bad("--job-tls-addr=%s: needs --tls-cert, --tls-key and --tls-ca", c.JobTLSAddr)
	}
	if c.Role == JobManager && c.Members != "" {
		members, err := parseMembers(c.Members)
		switch {
		case err != nil:
			bad("%w", err)
		case c.Join:
			bad("--members and --join: either the group is founded by its members, or this one is added to it")
		case c.Name == "":
			bad("--name: which of --members is this one?")
		case !slices.ContainsFunc(members, func(m raftmeta.Member) bool { return m.ID == c.Name }):
			bad("--name=%s: is none of --members=%s", c.Name, c.Members)
		}
	}
	if c.Role == TaskManager && c.JobManagers == "" {
		bad("--jobmanagers: the cluster addresses of JobManagers are needed")
	}
	return errs
}

// CheckAddress refuses what is open to the network by accident. No Beam SDK
// can show who it is to a job endpoint, so whoever reaches it may run code.
func CheckAddress(addr string, insecure bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("must be HOST:PORT: %w", err)
	}
	if insecure || loopback(host) {
		return nil
	}
	return fmt.Errorf("is open to the network, where anyone who reaches it can run code; use 127.0.0.1 or localhost, or say --insecure-listen")
}

// loopback reports hosts that only this machine can reach.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// machineMemory is the memory that this process may use: the machine's, or
// that of its control group if less.
func machineMemory() int64 {
	total := int64(4 << 30) // where it can't be found out
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		total = int64(info.Totalram) * int64(info.Unit)
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		if n, err := ParseSize(strings.TrimSpace(string(b))); err == nil && n > 0 {
			total = min(total, int64(n))
		}
	}
	return total
}
