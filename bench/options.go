package main

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options are what the command line says.
type options struct {
	only    []string // cases; empty: all
	sizes   []int64  // records of the load tests
	texts   []int64  // bytes of the word counts
	linear  []int64  // records of the test of linearity
	kafka   int64    // records of the topic that is replayed
	peers   []string // beside Trestle
	runs    int
	timeout time.Duration // of one job
	smallN  int           // small jobs in one client
	profile string        // directory for CPU profiles of Trestle; "" is none
	trestle string        // the program
	cache   string
	doc     string // file to write the tables to; "" is none

	failover    bool
	spill       bool
	spillBytes  int64
	hotBytes    int64
	spillMemory int64

	state       bool
	stateKeys   int64
	userKeys    int64
	stateMemory int64
}

// The cases that -only chooses from, in their order.
var caseNames = []string{"pardo", "group_by_key", "combine", "cogbk", "sideinput", "wordcount", "small", "exchange", "stream", "linear", "kafka"}

const defaultDoc = "docs/performance.md"

func parseOptions(f *flag.FlagSet, args []string) (*options, error) {
	o := &options{}
	only := f.String("only", "", "cases to run, comma separated: "+strings.Join(caseNames, ", ")+"; all if empty")
	sizes := f.String("sizes", "200k,1M", "records of the Go load tests")
	texts := f.String("texts", "21MB,100MB", "bytes of text of the Python word counts")
	linear := f.String("linear", "1M,5M,20M", "records of the test of linearity, Trestle alone, one run")
	kafka := f.String("kafka", "4M", "records of the topic that is replayed, Trestle beside kafka-go and franz-go")
	peers := f.String("peers", "prism,flink,fnapi", "runners beside Trestle; - for none")
	quick := f.Bool("quick", false, "small sizes, one run: shows that everything works, not how fast")
	spillBytes := f.String("spill-bytes", "4GB", "with -spill: bytes to group")
	hotBytes := f.String("hot-bytes", "1GB", "with -spill: bytes of the one key")
	spillMemory := f.String("spill-memory", "512MiB", "with -spill: memory that the runner may use")
	stateKeys := f.String("state-keys", "10M", "with -state: keys that are grouped")
	userKeys := f.String("user-keys", "2M", "with -state: keys with user state")
	stateMemory := f.String("state-memory", "512MiB", "with -state: memory that the runner may use")
	f.IntVar(&o.runs, "runs", 3, "runs of each case; tables show medians")
	f.IntVar(&o.smallN, "n", 50, "small jobs of one client")
	f.DurationVar(&o.timeout, "timeout", 15*time.Minute, "time that one job may take")
	f.StringVar(&o.profile, "profile", "", "directory for CPU profiles of Trestle, one for each case")
	f.StringVar(&o.trestle, "trestle", "bin/trestle", "the trestle program")
	f.StringVar(&o.cache, "cache", ".cache", "where peers, clients and texts are kept")
	f.StringVar(&o.doc, "doc", defaultDoc, "file to write the tables to; empty: none")
	f.BoolVar(&o.failover, "failover", false, "what dying processes cost, in place of the comparison")
	f.BoolVar(&o.state, "state", false, "remember more than memory holds in a streaming job, in place of the comparison")
	f.BoolVar(&o.spill, "spill", false, "group more than memory holds, in place of the comparison")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if *quick {
		setUnlessGiven(f, map[string]string{
			"sizes": "50k", "texts": "4MB", "linear": "100k,200k", "kafka": "100k", "runs": "1", "n": "10",
			"spill-bytes": "256MB", "hot-bytes": "64MB", "spill-memory": "128MiB",
			"state-keys": "400k", "user-keys": "100k", "state-memory": "128MiB"})
	}
	var err error
	for _, l := range []struct {
		text string
		into *[]int64
	}{{*sizes, &o.sizes}, {*texts, &o.texts}, {*linear, &o.linear}} {
		if *l.into, err = parseSizes(l.text); err != nil {
			return nil, err
		}
	}
	for _, s := range []struct {
		text string
		into *int64
	}{{*spillBytes, &o.spillBytes}, {*hotBytes, &o.hotBytes}, {*spillMemory, &o.spillMemory},
		{*kafka, &o.kafka}, {*stateKeys, &o.stateKeys}, {*userKeys, &o.userKeys}, {*stateMemory, &o.stateMemory}} {
		if *s.into, err = parseSize(s.text); err != nil {
			return nil, err
		}
	}
	if o.only, err = names(*only, caseNames); err != nil {
		return nil, err
	}
	if o.peers, err = names(strings.TrimPrefix(*peers, "-"), []string{prismName, flinkName, fnapiName}); err != nil {
		return nil, err
	}
	return o, o.finish(f)
}

// finish does what follows from which flags were given.
func (o *options) finish(f *flag.FlagSet) (err error) {
	narrowed := false
	f.Visit(func(g *flag.Flag) {
		switch g.Name {
		case "only", "sizes", "texts", "linear", "kafka", "peers", "quick", "spill-bytes", "hot-bytes", "spill-memory", "state-keys", "user-keys", "state-memory":
			narrowed = true
		}
	})
	if len(o.only) == 1 && o.ownSection(o.only[0]) && !given(f, "quick") && !given(f, "kafka") && !given(f, "sizes") && !given(f, "peers") {
		narrowed = false
	}
	if narrowed && !given(f, "doc") {
		o.doc = ""
	}
	if o.runs < 1 || o.smallN < 1 {
		return fmt.Errorf("-runs and -n must be at least 1")
	}
	if o.cache, err = filepath.Abs(o.cache); err != nil {
		return err
	}
	o.trestle, err = filepath.Abs(o.trestle)
	return err
}

// A part is what a run measures for one section of the document.
type part struct {
	section string
	measure func(context.Context, *workshop, *options) ([]table, error)
}

// parts are what this run measures, in order.
func (o *options) parts() []part {
	switch {
	case o.spill:
		return []part{{"spill", spill}}
	case o.state:
		return []part{{"state", largeState}}
	case o.failover:
		return []part{{"failover", failover}}
	}
	var all []part
	if len(o.only) != 1 || !o.ownSection(o.only[0]) {
		all = append(all, part{"peers", compare})
	}
	if o.wants("stream") {
		all = append(all, part{"stream", streaming})
	}
	if o.wants("kafka") {
		all = append(all, part{"kafka", replays})
	}
	return all
}

// ownSection reports whether a case has a section of the document for itself.
func (o *options) ownSection(name string) bool { return name == "kafka" || name == "stream" }

func (o *options) wants(name string) bool { return len(o.only) == 0 || slices.Contains(o.only, name) }

func given(f *flag.FlagSet, name string) bool {
	found := false
	f.Visit(func(g *flag.Flag) { found = found || g.Name == name })
	return found
}

func setUnlessGiven(f *flag.FlagSet, values map[string]string) {
	for name, value := range values {
		if !given(f, name) {
			_ = f.Set(name, value) // constants above, known to parse
		}
	}
}

func names(list string, known []string) ([]string, error) {
	var out []string
	for _, n := range split(list) {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("%q is not known; choose from %s", n, strings.Join(known, ", "))
		}
		out = append(out, n)
	}
	return out, nil
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func parseSizes(list string) ([]int64, error) {
	var out []int64
	for _, s := range split(list) {
		n, err := parseSize(s)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

var units = []struct {
	suffix string
	factor int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}}

// parseSize reads 200k, 1M, 4GB, 512MiB.
func parseSize(s string) (int64, error) {
	factor := int64(1)
	digits := s
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, factor = rest, u.factor
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<50/factor {
		return 0, fmt.Errorf("size %q: want a number and one of k, M, KB, MB, GB, KiB, MiB, GiB", s)
	}
	return n * factor, nil
}

// short prints a round number as parseSize reads it.
func short(n int64, unit string) string {
	switch {
	case n >= 1e9 && n%1e9 == 0:
		return fmt.Sprintf("%d G%s", n/1e9, unit)
	case n >= 1e6 && n%1e6 == 0:
		return fmt.Sprintf("%d M%s", n/1e6, unit)
	case n >= 1e3 && n%1e3 == 0:
		return fmt.Sprintf("%d k%s", n/1e3, unit)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", n, unit))
}
