package jobservice

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	jobpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/jobmanagement_v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// Settings are the job options that are meant for the runner. Empty and zero
// mean that the author didn't say.
type Settings struct {
	ExchangeMode string // one of ExchangeModes
	// RestartStrategy is one of RestartStrategies; the rest are its details.
	RestartStrategy   string
	RestartAttempts   *int // 0: none; -1: as many as it takes
	RestartDelay      time.Duration
	RestartMaxDelay   time.Duration
	RestartInterval   time.Duration
	Priority          int  // each step doubles a job's share of the slots
	SDKWorkerParallel int  // worker processes per environment
	Parallelism       int  // most tasks of a stage
	BundleElements    int  // most elements in a bundle's input
	BundleMillis      int  // after which what a bundle of a splittable DoFn has not done goes into another
	Streaming         bool // run it as if its input were unbounded
}

// The values that options may have.
var (
	ExchangeModes     = []string{"all-blocking", "pointwise-pipelined", "all-pipelined"}
	RestartStrategies = []string{"none", "fixed-delay", "exponential", "failure-rate"}
)

// An option is one that the runner reads. This table is all there is to know
// of it: it is parsed by it and described to clients by it.
type option struct {
	name    string
	kind    jobpb.PipelineOptionType_Enum
	initial string // shown to people; "" where a server setting decides
	help    string
	set     func(*Settings, *structpb.Value) error
}

var options = []option{
	{"exchange_mode", jobpb.PipelineOptionType_STRING, "pointwise-pipelined",
		"Which edges between stages of bounded input hand data on while their producer runs: " + strings.Join(ExchangeModes, ", ") + ".",
		oneOf(ExchangeModes, func(s *Settings) *string { return &s.ExchangeMode })},
	{"restart_strategy", jobpb.PipelineOptionType_STRING, "",
		"What to do when a task fails: " + strings.Join(RestartStrategies, ", ") + ". The default is the server's.",
		oneOf(RestartStrategies, func(s *Settings) *string { return &s.RestartStrategy })},
	{"restart_attempts", jobpb.PipelineOptionType_INTEGER, "",
		"Restarts after which the job fails: of one task (fixed-delay, exponential) or within restart_interval (failure-rate). 0 is none, -1 as many as it takes.",
		attempts},
	{"restart_delay", jobpb.PipelineOptionType_STRING, "",
		"Time before a restart, such as 10s; with exponential, before the first one.",
		duration(func(s *Settings) *time.Duration { return &s.RestartDelay })},
	{"restart_max_delay", jobpb.PipelineOptionType_STRING, "",
		"Longest time before a restart with exponential.",
		duration(func(s *Settings) *time.Duration { return &s.RestartMaxDelay })},
	{"restart_interval", jobpb.PipelineOptionType_STRING, "",
		"Time in which failure-rate counts restarts.",
		duration(func(s *Settings) *time.Duration { return &s.RestartInterval })},
	{"priority", jobpb.PipelineOptionType_INTEGER, "0",
		"Weight of the job where several want slots, from -10 to 10; each step doubles its share.",
		integer(-10, 10, func(s *Settings) *int { return &s.Priority })},
	{"sdk_worker_parallelism", jobpb.PipelineOptionType_INTEGER, "",
		"SDK worker processes per environment; 0 lets the runner choose.",
		integer(0, 1024, func(s *Settings) *int { return &s.SDKWorkerParallel })},
	{"parallelism", jobpb.PipelineOptionType_INTEGER, "",
		"Most tasks that a stage is cut into; 0 or -1 lets the runner choose by the size of the input.",
		parallelism},
	{"max_bundle_size", jobpb.PipelineOptionType_INTEGER, "",
		"Most elements that an SDK worker is given in one bundle; 0 lets the runner choose.",
		integer(0, math.MaxInt32, func(s *Settings) *int { return &s.BundleElements })},
	{"max_bundle_time_mills", jobpb.PipelineOptionType_INTEGER, "",
		"Milliseconds after which a bundle of a splittable DoFn is asked to leave what it has not done to another one; 0 lets the runner choose.",
		integer(0, math.MaxInt32, func(s *Settings) *int { return &s.BundleMillis })},
	{"streaming", jobpb.PipelineOptionType_BOOLEAN, "false",
		"Run the pipeline as a streaming one even if all its input is bounded.",
		boolean(func(s *Settings) *bool { return &s.Streaming })},
}

// ParseSettings reads the options that are meant for the runner, and tells all
// that is wrong with them. Options of other names are not looked at.
//
// Clients write an option's name as beam:option:NAME:v1 or bare, Go's client
// puts what it doesn't know into one option more, and Python's writes numbers
// as strings. Java and Go refuse flags that they don't know; what they let
// through are experiments, and NAME=VALUE among those is an option, too.
func ParseSettings(o *structpb.Struct) (Settings, error) {
	var s Settings
	var errs []error
	experiments := experimentsOf(o)
	for _, opt := range options {
		v, ok := lookup(o, opt.name)
		if !ok {
			v, ok = experiments[opt.name]
		}
		if !ok {
			continue
		}
		if err := opt.set(&s, v); err != nil {
			errs = append(errs, fmt.Errorf("option %s: %w", opt.name, err))
		}
	}
	return s, errors.Join(errs...)
}

// lookup finds an option by its bare name. A null is no value.
func lookup(o *structpb.Struct, name string) (*structpb.Value, bool) {
	f := o.GetFields()
	goOptions := f["beam:option:go_options:v1"].GetStructValue().GetFields()["options"].GetStructValue().GetFields()
	for _, v := range []*structpb.Value{f["beam:option:"+name+":v1"], f[name], goOptions[name]} {
		if v == nil {
			continue
		}
		if _, null := v.GetKind().(*structpb.Value_NullValue); !null {
			return v, true
		}
	}
	return nil, false
}

// experimentsOf are the experiments that have a value. Of two with one name
// the last counts.
func experimentsOf(o *structpb.Struct) map[string]*structpb.Value {
	v, _ := lookup(o, "experiments")
	out := map[string]*structpb.Value{}
	for _, e := range v.GetListValue().GetValues() {
		if name, value, ok := strings.Cut(e.GetStringValue(), "="); ok {
			out[strings.TrimSpace(name)] = structpb.NewStringValue(value)
		}
	}
	return out
}

// text is a value as a person would write it.
func text(v *structpb.Value) (string, error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StringValue:
		return strings.TrimSpace(k.StringValue), nil
	case *structpb.Value_NumberValue:
		return strconv.FormatFloat(k.NumberValue, 'f', -1, 64), nil
	case *structpb.Value_BoolValue:
		return strconv.FormatBool(k.BoolValue), nil
	}
	return "", errors.New("must be a single value")
}

func oneOf(values []string, field func(*Settings) *string) func(*Settings, *structpb.Value) error {
	return func(s *Settings, v *structpb.Value) error {
		t, err := text(v)
		if err != nil || t == "" {
			return err
		}
		t = strings.ReplaceAll(strings.ToLower(t), "_", "-")
		if !slices.Contains(values, t) {
			return fmt.Errorf("must be one of %s, but is %.60q", strings.Join(values, ", "), t)
		}
		*field(s) = t
		return nil
	}
}

func wholeNumber(v *structpb.Value, least, most int) (int, error) {
	t, err := text(v)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(t)
	if err != nil {
		return 0, fmt.Errorf("must be a whole number, but is %.60q", t)
	}
	if n < least || n > most {
		return 0, fmt.Errorf("must be from %d to %d, but is %d", least, most, n)
	}
	return n, nil
}

func integer(least, most int, field func(*Settings) *int) func(*Settings, *structpb.Value) error {
	return func(s *Settings, v *structpb.Value) (err error) {
		*field(s), err = wholeNumber(v, least, most)
		return err
	}
}

func boolean(field func(*Settings) *bool) func(*Settings, *structpb.Value) error {
	return func(s *Settings, v *structpb.Value) error {
		t, err := text(v)
		if err != nil {
			return err
		}
		switch strings.ToLower(t) {
		case "true":
			*field(s) = true
		case "false", "":
			*field(s) = false
		default:
			return fmt.Errorf("must be true or false, but is %.60q", t)
		}
		return nil
	}
}

// attempts tells none from not said.
func attempts(s *Settings, v *structpb.Value) error {
	n, err := wholeNumber(v, -1, math.MaxInt32)
	if err == nil {
		s.RestartAttempts = &n
	}
	return err
}

// parallelism also takes -1, which SDKs send for "not set".
func parallelism(s *Settings, v *structpb.Value) error {
	n, err := wholeNumber(v, -1, 1<<20)
	s.Parallelism = max(n, 0)
	return err
}

func duration(field func(*Settings) *time.Duration) func(*Settings, *structpb.Value) error {
	return func(s *Settings, v *structpb.Value) error {
		t, err := text(v)
		if err != nil {
			return err
		}
		d, err := time.ParseDuration(t)
		if err != nil || d < 0 {
			return fmt.Errorf("must be a duration such as 10s or 1m30s, but is %.60q", t)
		}
		*field(s) = d
		return nil
	}
}
