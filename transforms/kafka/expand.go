package kafka

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"trestle/jobservice/expansion"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/graphx"
	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

// The URNs that the SDKs' wrappers send.
const (
	urnReadPlain    = "beam:transform:org.apache.beam:kafka_read_without_metadata:v1"
	urnReadMetadata = "beam:transform:org.apache.beam:kafka_read_with_metadata:v1"
	urnWrite        = "beam:transform:org.apache.beam:kafka_write:v1"
	urnWriteRows    = "beam:transform:org.apache.beam:kafka_write_with_headers:v1"
)

// urnEnvironment is the environment of our transforms: the runner starts its own
// program for it.
const urnEnvironment = "trestle:env:harness:v1"

// Provider offers this package's transforms to an expansion service.
type Provider struct {
	// ParseYAML reads the configurations of Managed; nil where there is no
	// Managed.
	ParseYAML func(text []byte, into any) error
}

// Transforms are those of the stock wrappers.
func (Provider) Transforms() []string {
	return []string{urnReadPlain, urnReadMetadata, urnWrite, urnWriteRows}
}

// Expand builds a transform.
func (p Provider) Expand(ctx context.Context, r expansion.Request) (expansion.Fragment, error) {
	f := fields{row: r.Config}
	switch r.URN {
	case urnReadPlain:
		return expandRead(ctx, &f, false)
	case urnReadMetadata:
		return expandRead(ctx, &f, true)
	case urnWrite:
		return expandWrite(ctx, &f, r)
	case urnWriteRows:
		return expandWriteRows(ctx, &f, r)
	case schemaRead:
		return expandSchemaRead(ctx, &f)
	case schemaWrite:
		return expandSchemaWrite(ctx, &f, r)
	case schemaManaged:
		return p.expandManaged(ctx, &f, r)
	}
	return expansion.Fragment{}, fmt.Errorf("%q is not known", r.URN)
}

// fields reads a configuration by the names that wrappers use, whether they
// write them with underscores or in camel case.
type fields struct {
	row  expansion.Row
	errs []error
}

// plainName is a name without what SDKs write differently.
func plainName(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

func (f *fields) value(name string) any {
	for n, v := range f.row {
		if plainName(n) == plainName(name) {
			return v
		}
	}
	return nil
}

func (f *fields) fail(name, want string) {
	f.errs = append(f.errs, fmt.Errorf("%s must be %s", name, want))
}

func (f *fields) text(name string) string {
	v := f.value(name)
	s, ok := v.(string)
	if v != nil && !ok {
		f.fail(name, "a string")
	}
	return s
}

func (f *fields) number(name string) (n int64, set bool) {
	v := f.value(name)
	n, ok := v.(int64)
	if v != nil && !ok {
		f.fail(name, "an integer")
	}
	return n, v != nil && ok
}

func (f *fields) flag(name string) bool {
	v := f.value(name)
	b, ok := v.(bool)
	if v != nil && !ok {
		f.fail(name, "a boolean")
	}
	return b
}

func (f *fields) texts(name string) []string {
	v := f.value(name)
	list, ok := v.([]any)
	if v != nil && !ok {
		f.fail(name, "a list of strings")
	}
	var all []string
	for _, one := range list {
		s, ok := one.(string)
		if !ok {
			f.fail(name, "a list of strings")
		}
		all = append(all, s)
	}
	return all
}

// config is a map of strings. TypeScript's wrapper, and others that have no
// maps, may send a list of key and value rows.
func (f *fields) config(name string) map[string]string {
	all := map[string]string{}
	put := func(k, v any) {
		key, ok1 := k.(string)
		value, ok2 := v.(string)
		if !ok1 || !ok2 {
			f.fail(name, "a map of strings to strings")
			return
		}
		all[key] = value
	}
	switch v := f.value(name).(type) {
	case nil:
	case map[any]any:
		for k, one := range v {
			put(k, one)
		}
	case expansion.Row:
		for k, one := range v {
			put(k, one)
		}
	case []any:
		for _, one := range v {
			row, _ := one.(expansion.Row)
			put(row["key"], row["value"])
		}
	default:
		f.fail(name, "a map of strings to strings")
	}
	return all
}

func (f *fields) err(more ...error) error { return errors.Join(append(f.errs, more...)...) }

// A reading is what a read is expanded to: a Replay, or a Live.
type reading interface {
	Messages(s beam.Scope) beam.PCollection
	pairs(s beam.Scope, f Format, nulls bool) beam.PCollection
	bytesRows(s beam.Scope) beam.PCollection
	textRows(s beam.Scope) beam.PCollection
	jsonRows(s beam.Scope, text string, t reflect.Type) beam.PCollection
}

// reading reads what the wrappers of ReadFromKafka send.
func (f *fields) reading() (reading, Format) {
	config := f.config("consumer_config")
	topics := f.texts("topics")
	if len(topics) == 0 {
		f.errs = append(f.errs, errors.New("no topic is named"))
	}
	stamp := Stamp(f.text("timestamp_policy"))
	switch stamp {
	case "":
		stamp = ByProcessing // the wrappers' default
	case ByProcessing, ByCreate, ByLog:
	default:
		f.errs = append(f.errs, fmt.Errorf("timestamp policy %q is not known; use ProcessingTime, CreateTime or LogAppendTime", stamp))
	}
	if f.text("consumer_factory_fn_class") != "" {
		f.errs = append(f.errs, errors.New("consumer_factory_fn_class names a Java class, which can't be run without Java; leave it out"))
	}
	var format Format
	var err error
	if format.Key, err = parseClass(f.classOf("key_deserializer", "Deserializer"), "Deserializer"); err != nil {
		f.errs = append(f.errs, fmt.Errorf("key: %w", err))
	}
	if format.Value, err = parseClass(f.classOf("value_deserializer", "Deserializer"), "Deserializer"); err != nil {
		f.errs = append(f.errs, fmt.Errorf("value: %w", err))
	}
	if f.ends(config, "max_num_records", "max_read_time") {
		return f.replay(config, topics, stamp), format
	}
	return f.live(config, topics, stamp), format
}

// ends reports whether a read is bounded: by the config, or by one of these.
func (f *fields) ends(config map[string]string, names ...string) bool {
	for _, key := range []string{keyStop, keyStopOffsets, keyStopTime} {
		if config[key] != "" {
			return true
		}
	}
	for _, name := range append(names, "stop_read_time") {
		if _, said := f.number(name); said {
			return true
		}
	}
	return false
}

// replay reads what is said of a read that ends.
func (f *fields) replay(config map[string]string, topics []string, stamp Stamp) Replay {
	s, err := ParseConsumer(config)
	if s.Reset == FromLatest {
		err = errors.Join(err, errors.New("consumer config auto.offset.reset: "+noLatest))
	}
	f.errs = append(f.errs, err)
	s.Topics = topics
	if n, ok := f.number("start_read_time"); ok {
		s.Start.Time = &n
	}
	if n, ok := f.number("stop_read_time"); ok {
		s.Stop.Time = &n
	}
	if s.MaxRecords, _ = f.number("max_num_records"); s.MaxRecords < 0 {
		f.fail("max_num_records", "at least 0")
	}
	if f.flag("commit_offset_in_finalize") {
		f.errs = append(f.errs, errors.New("commit_offset_in_finalize: a replay reads exact ranges and commits nothing; leave it out"))
	}
	return Replay{Source: s, Stamp: stamp}
}

// live reads what is said of a read that doesn't end.
func (f *fields) live(config map[string]string, topics []string, stamp Stamp) Live {
	l, err := ParseLive(config)
	l.Source.Topics, l.Stamp = topics, stamp
	if n, ok := f.number("start_read_time"); ok {
		l.Source.Start.Time = &n
	}
	l.Commit = f.flag("commit_offset_in_finalize")
	f.errs = append(f.errs, err, l.check())
	if _, said := f.number("dynamic_read_poll_interval_seconds"); said {
		f.errs = append(f.errs, errors.New("dynamic_read_poll_interval_seconds: partitions that are added while a job runs are read when it is started again; leave it out"))
	}
	return l
}

func (f *fields) classOf(name, kind string) string {
	if c := f.text(name); c != "" {
		return c
	}
	return serialization + "ByteArray" + kind
}

func expandRead(ctx context.Context, f *fields, metadata bool) (expansion.Fragment, error) {
	r, format := f.reading()
	err := f.err()
	if metadata && err == nil && format != (Format{}) {
		err = errors.New("with metadata keys and values are bytes; use ByteArrayDeserializer for both")
	}
	if err != nil {
		return expansion.Fragment{}, err
	}
	p, s := beam.NewPipelineWithRoot()
	if metadata {
		r.Messages(s)
		return build(ctx, p)
	}
	r.pairs(s.Scope("kafka.Pairs"), format, true)
	fragment, err := build(ctx, p)
	if err != nil {
		return fragment, err
	}
	return fragment, withNulls(fragment)
}

// build makes a fragment of a pipeline: what nobody reads in it is its output,
// and what a standInFn makes stands for what goes in.
func build(ctx context.Context, p *beam.Pipeline) (expansion.Fragment, error) {
	edges, _, err := p.Build()
	if err != nil {
		return expansion.Fragment{}, err
	}
	env, err := graphx.CreateEnvironment(ctx, urnEnvironment, func(context.Context) string { return "" })
	if err != nil {
		return expansion.Fragment{}, err
	}
	env.Payload, env.Dependencies = nil, nil
	made, err := graphx.Marshal(edges, &graphx.Options{Environment: env})
	if err != nil {
		return expansion.Fragment{}, err
	}
	describeImpulses(made.GetComponents())
	f := expansion.Fragment{Pipeline: made, Inputs: map[string]string{}, Outputs: map[string]string{}}
	read := map[string]bool{}
	for _, t := range made.GetComponents().GetTransforms() {
		for _, id := range t.GetInputs() {
			read[id] = true
		}
		if len(t.GetSubtransforms()) == 0 && strings.HasSuffix(t.GetUniqueName(), standIn) {
			for _, id := range t.GetOutputs() {
				f.Inputs["input"] = id
			}
		}
	}
	for id := range made.GetComponents().GetPcollections() {
		if !read[id] {
			f.Outputs["output"] = id
		}
	}
	return f, nil
}

// describeImpulses takes descriptions of replays from the readers of Impulses
// to the Impulses: Python's SDK drops annotations of what it was given.
func describeImpulses(c *pipepb.Components) {
	impulses := map[string]*pipepb.PTransform{} // by output
	for _, t := range c.GetTransforms() {
		if t.GetSpec().GetUrn() == "beam:transform:impulse:v1" {
			for _, id := range t.GetOutputs() {
				impulses[id] = t
			}
		}
	}
	for _, t := range c.GetTransforms() {
		for _, id := range t.GetInputs() {
			if from, about := impulses[id], t.GetAnnotations()[annotationBound]; from != nil && about != nil {
				from.Spec.Payload = about
				delete(t.Annotations, annotationBound)
			}
		}
	}
}

// standIn is the end of the name of what makes the collections that stand for a
// client's.
const standIn = ".standInFn"

// standInFn makes nothing; it is never run.
type standInFn struct{}

func (*standInFn) ProcessElement([]byte, func([]byte, []byte)) {}

func init() {
	beam.RegisterType(reflect.TypeFor[standInFn]())
	register.Emitter2[[]byte, []byte]()
}

// withNulls makes the keys and values of the output nullable.
func withNulls(f expansion.Fragment) error {
	c := f.Pipeline.GetComponents()
	for _, id := range f.Outputs {
		out := c.GetPcollections()[id]
		kv := c.GetCoders()[out.GetCoderId()]
		if kv.GetSpec().GetUrn() != "beam:coder:kv:v1" || len(kv.GetComponentCoderIds()) != 2 {
			return errors.New("the output is no pair")
		}
		made := &pipepb.Coder{Spec: kv.GetSpec()}
		for _, part := range kv.GetComponentCoderIds() {
			id := "nullable_" + part
			c.Coders[id] = &pipepb.Coder{Spec: &pipepb.FunctionSpec{Urn: "beam:coder:nullable:v1"}, ComponentCoderIds: []string{part}}
			made.ComponentCoderIds = append(made.ComponentCoderIds, id)
		}
		c.Coders["nullable_pair"] = made
		out.CoderId = "nullable_pair"
	}
	return nil
}
