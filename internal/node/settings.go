package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A Setting is one line of the table of all that can be set.
type Setting struct {
	Name  string // as a flag, and in the config file
	Value string // what stands for its value in a help text
	Help  string
	field func(*Config) field
}

// A field reads and writes one setting of one Config. It is a pflag.Value.
type field interface {
	Set(string) error
	String() string
	Type() string
}

// Env is the setting's environment variable.
func (s Setting) Env() string {
	return "TRESTLE_" + strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
}

// Of is the setting in a Config.
func (s Setting) Of(c *Config) interface {
	Set(string) error
	String() string
	Type() string
} {
	return s.field(c)
}

// roles are those of settings that not every process has.
var roles = map[string]Role{
	"job-addr": JobManager, "job-tls-addr": JobManager, "name": 0, "cluster-addr": JobManager, "data-addr": TaskManager,
	"advertise": 0, "members": JobManager, "join": JobManager, "jobmanagers": TaskManager,
	"blob-store": JobManager, "shuffle-store": 0, "lease": JobManager, "reconcile": JobManager, "tls-cert": 0, "tls-key": 0, "tls-ca": 0,
	"memory": 0,
	"slots":  TaskManager, "workers-per-environment": TaskManager, "worker-start-timeout": TaskManager,
	"exchange-mode": JobManager, "restart-strategy": JobManager, "restart-attempts": JobManager,
	"restart-delay": JobManager, "restart-max-delay": JobManager, "restart-interval": JobManager,
	"target-task-size": JobManager, "allow-process-environments": TaskManager,
	"prepared-ttl": JobManager, "message-log-size": JobManager, "max-artifact-size": JobManager, "history-jobs": JobManager, "snapshot-entries": JobManager,
}

// grouped are settings of processes that have others to talk to.
var grouped = []string{"name", "cluster-addr", "data-addr", "advertise", "members", "join", "jobmanagers", "blob-store", "shuffle-store", "lease", "reconcile"}

// SettingsOf are those that a process of that role has.
func SettingsOf(role Role) []Setting {
	var out []Setting
	for _, s := range Settings {
		of := roles[s.Name]
		if (of == 0 || of&role != 0) && (role != Embedded || !slices.Contains(grouped, s.Name)) {
			out = append(out, s)
		}
	}
	return out
}

// Settings is the table, in the order of help texts.
var Settings = []Setting{
	{"job-addr", "HOST:PORT", "Where Beam SDKs submit jobs (Job, Artifact staging and retrieval services). Port 0 lets the system choose.",
		func(c *Config) field { return text(&c.JobAddr) }},
	{"job-tls-addr", "HOST:PORT", "Job endpoint for clients with certificates, who come through trestle proxy. Needs --tls-cert. Default: none.",
		func(c *Config) field { return text(&c.JobTLSAddr) }},
	{"web-addr", "HOST:PORT", "Where the web page, the REST API, /metrics and /healthz are.",
		func(c *Config) field { return text(&c.WebAddr) }},
	{"name", "NAME", "This process's name, which no other has and which it keeps. Default: the host's name.",
		func(c *Config) field { return text(&c.Name) }},
	{"cluster-addr", "HOST:PORT", "Where other JobManagers and TaskManagers reach this JobManager.",
		func(c *Config) field { return text(&c.ClusterAddr) }},
	{"data-addr", "HOST:PORT", "Where other TaskManagers fetch what this one has written.",
		func(c *Config) field { return text(&c.DataAddr) }},
	{"advertise", "HOST:PORT", "What others are to dial, if it isn't the address that this process listens on. Port 0 stands for the one that it listens on.",
		func(c *Config) field { return text(&c.Advertise) }},
	{"members", "NAME=HOST:PORT,…", "The JobManagers that found a group together, this one among them; the same list for each. Default: this one alone.",
		func(c *Config) field { return text(&c.Members) }},
	{"join", "", "Found no group: wait to be added to one by \"trestle cluster add\".",
		func(c *Config) field { return value(&c.Join, "bool", strconv.ParseBool) }},
	{"jobmanagers", "HOST:PORT,…", "Cluster addresses of JobManagers; one that lives is enough.",
		func(c *Config) field { return text(&c.JobManagers) }},
	{"blob-store", "URL", "Object store for pipelines and plans that all JobManagers share (s3://BUCKET?prefix=DIR/, file:///DIR on a shared disk); the same for each. TaskManagers ask JobManagers. Default: JobManagers keep copies for each other.",
		func(c *Config) field { return text(&c.BlobStore) }},
	{"shuffle-store", "URL", "Object store for what tasks have written, so that it outlives their TaskManager; the same for each. JobManagers clear up in it what nobody else could. Default: each TaskManager's disk.",
		func(c *Config) field { return text(&c.ShuffleStore) }},
	{"lease", "DURATION", "Silence after which a TaskManager is taken to be lost.",
		func(c *Config) field { return value(&c.Lease, "duration", parseDuration) }},
	{"reconcile", "DURATION", "Time that a new leader gives TaskManagers to report before it takes them to be lost.",
		func(c *Config) field { return value(&c.Reconcile, "duration", parseDuration) }},
	{"tls-cert", "FILE", "This process's certificate. With it, all that Trestle's processes say to each other is encrypted, and nobody else is let in (trestle certs makes all three files).",
		func(c *Config) field { return text(&c.TLSCert) }},
	{"tls-key", "FILE", "The certificate's key.",
		func(c *Config) field { return text(&c.TLSKey) }},
	{"tls-ca", "FILE", "Certificate of the authority that all processes' certificates are from.",
		func(c *Config) field { return text(&c.TLSCA) }},
	{"data", "DIR", "Directory for all that is kept: the journal, artifacts, shuffle files, messages.",
		func(c *Config) field { return text(&c.Data) }},
	{"ready-file", "FILE", "File to write {\"job\",\"web\",\"pid\"} to as JSON once Trestle serves.",
		func(c *Config) field { return text(&c.ReadyFile) }},
	{"memory", "SIZE", "Memory that this process may use, such as 512MiB or 2GiB; SDK workers not counted.",
		func(c *Config) field { return value(&c.Memory, "size", ParseSize) }},
	{"slots", "N", "Tasks that run at once.",
		func(c *Config) field { return value(&c.Slots, "int", strconv.Atoi) }},
	{"workers-per-environment", "N", "SDK worker processes per environment of a job. 0: as many as are useful.",
		func(c *Config) field { return value(&c.WorkersPerEnvironment, "int", strconv.Atoi) }},
	{"worker-start-timeout", "DURATION", "Time that an SDK worker has to start and connect.",
		func(c *Config) field { return value(&c.WorkerStartTimeout, "duration", parseDuration) }},
	{"exchange-mode", "MODE", "For jobs that don't say: which edges of bounded input hand data on while their producer runs. all-blocking, pointwise-pipelined or all-pipelined.",
		func(c *Config) field { return text(&c.ExchangeMode) }},
	{"restart-strategy", "STRATEGY", "For jobs that don't say: what to do when a task fails. none, fixed-delay, exponential or failure-rate.",
		func(c *Config) field { return text(&c.RestartStrategy) }},
	{"restart-attempts", "N", "Restarts after which a job fails: of one task, or with failure-rate within the interval. 0 is none, -1 as many as it takes.",
		func(c *Config) field { return value(&c.RestartAttempts, "int", strconv.Atoi) }},
	{"restart-delay", "DURATION", "Time before a restart; with exponential, before the first.",
		func(c *Config) field { return value(&c.RestartDelay, "duration", parseDuration) }},
	{"restart-max-delay", "DURATION", "With exponential: the longest time before a restart.",
		func(c *Config) field { return value(&c.RestartMaxDelay, "duration", parseDuration) }},
	{"restart-interval", "DURATION", "With failure-rate: the time in which restarts are counted.",
		func(c *Config) field { return value(&c.RestartInterval, "duration", parseDuration) }},
	{"target-task-size", "SIZE", "Input that one task of a stage should get.",
		func(c *Config) field { return value(&c.TargetTaskSize, "size", ParseSize) }},
	{"insecure-listen", "", "Allow --job-addr and --web-addr beyond this machine, without any authentication.",
		func(c *Config) field { return value(&c.InsecureListen, "bool", strconv.ParseBool) }},
	{"allow-process-environments", "WHICH", "Commands that PROCESS environments may run: all, none, auto (all unless the job endpoint, or without certificates a TaskManager, is open to the network), or a list with commas.",
		func(c *Config) field { return text(&c.AllowProcessEnvironments) }},
	{"prepared-ttl", "DURATION", "Time after which a job that was prepared and never run is forgotten.",
		func(c *Config) field { return value(&c.PreparedTTL, "duration", parseDuration) }},
	{"message-log-size", "SIZE", "Messages that are kept of one job.",
		func(c *Config) field { return value(&c.MessageLogSize, "size", ParseSize) }},
	{"max-artifact-size", "SIZE", "Largest file that a job may stage.",
		func(c *Config) field { return value(&c.MaxArtifactSize, "size", ParseSize) }},
	{"history-jobs", "N", "Ended jobs that are remembered.",
		func(c *Config) field { return value(&c.HistoryJobs, "int", strconv.Atoi) }},
	{"snapshot-entries", "N", "Entries of the log of decisions after which a snapshot takes their place.",
		func(c *Config) field { return value(&c.SnapshotEntries, "int", strconv.Atoi) }},
	{"log-level", "LEVEL", "What Trestle logs of itself: debug, info, warn or error.",
		func(c *Config) field { return text(&c.LogLevel) }},
	{"log-format", "FORMAT", "text or json.",
		func(c *Config) field { return text(&c.LogFormat) }},
	{"stop-timeout", "DURATION", "Time that running tasks and workers have to end after SIGTERM.",
		func(c *Config) field { return value(&c.StopTimeout, "duration", parseDuration) }},
	{"profiles", "", "Serve Go's CPU and memory profiles under /debug/pprof/ of the web address.",
		func(c *Config) field { return value(&c.Profiles, "bool", strconv.ParseBool) }},
}

// Load fills in what flags did not say: from the environment, then from the
// config file, in that order of precedence. given tells which settings flags
// have said. file may be "".
func Load(c *Config, given func(name string) bool, env func(string) (string, bool), file string) error {
	var errs []error
	said := map[string]bool{}
	for _, s := range SettingsOf(c.Role) {
		if given(s.Name) {
			said[s.Name] = true
		} else if v, ok := env(s.Env()); ok {
			said[s.Name] = true
			if err := s.field(c).Set(v); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", s.Env(), err))
			}
		}
	}
	if file != "" {
		values, err := readConfigFile(file)
		if err != nil {
			errs = append(errs, err)
		}
		for _, v := range values {
			i := slices.IndexFunc(Settings, func(s Setting) bool { return s.Name == v.name })
			if i < 0 {
				errs = append(errs, fmt.Errorf("%s:%d: there is no setting %.60q", file, v.line, v.name))
			} else if said[v.name] || !slices.ContainsFunc(SettingsOf(c.Role), func(s Setting) bool { return s.Name == v.name }) {
				// All processes of a group may share one file.
				continue
			} else if err := Settings[i].field(c).Set(v.value); err != nil {
				errs = append(errs, fmt.Errorf("%s:%d: %s: %w", file, v.line, v.name, err))
			}
		}
	}
	return errors.Join(errs...)
}

type configLine struct {
	name, value string
	line        int
}

// readConfigFile reads a YAML mapping of settings' names to single values.
func readConfigFile(file string) ([]configLine, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("config file: %w", err)
	}
	var doc yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(b)).Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil // an empty file says nothing
		}
		return nil, fmt.Errorf("config file %s: %w", file, err)
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("config file %s: must hold lines of NAME: VALUE", file)
	}
	var out []configLine
	for i := 0; i+1 < len(top.Content); i += 2 {
		k, v := top.Content[i], top.Content[i+1]
		if v.Kind != yaml.ScalarNode {
			return nil, fmt.Errorf("%s:%d: %s must have a single value", file, v.Line, k.Value)
		}
		out = append(out, configLine{strings.ReplaceAll(k.Value, "_", "-"), v.Value, k.Line})
	}
	return out, nil
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%.40q is no duration; write it like 10s or 1m30s", s)
	}
	return d, nil
}

// A typed field is one whose text is read by parse.
type typed[T any] struct {
	at    *T
	kind  string
	parse func(string) (T, error)
}

func value[T any](at *T, kind string, parse func(string) (T, error)) field {
	return typed[T]{at, kind, parse}
}

func text(at *string) field {
	return value(at, "string", func(s string) (string, error) { return s, nil })
}

func (f typed[T]) Set(s string) error {
	v, err := f.parse(s)
	if err != nil {
		return err
	}
	*f.at = v
	return nil
}

func (f typed[T]) String() string { return fmt.Sprint(*f.at) }
func (f typed[T]) Type() string   { return f.kind }
