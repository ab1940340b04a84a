package main

// A way is one in which pipelines are run. All give the same.
type way struct {
	Name    string
	Options []string // NAME=VALUE, of the job
	// Source is how the input comes: "" at once, "ranges" from a splittable DoFn,
	// "resuming" from an unbounded one, "played" by a TestStream.
	Source      string
	Shuffle     bool // the input
	PauseMillis int  // that splittable DoFns take for an element
	Kill        bool // workers are processes, some of which die
}

// ways are those there are. Each pipeline is run in the first ones, and in some
// of the others, or in all if that is asked for.
var ways = []way{
	{Name: "batch"},
	{Name: "streaming", Options: []string{"streaming=true"}},
	{Name: "batch-single", Options: []string{"max_bundle_size=1", "exchange_mode=all-blocking"}},
	{Name: "streaming-single", Options: []string{"streaming=true", "max_bundle_size=1"}},
	{Name: "batch-shuffled", Options: []string{"max_bundle_size=3", "exchange_mode=all-pipelined"}, Shuffle: true},
	{Name: "streaming-shuffled", Options: []string{"streaming=true", "max_bundle_size=3"}, Shuffle: true},
	{Name: "played", Options: []string{"streaming=true"}, Source: "played"},
	{Name: "batch-split", Options: []string{"max_bundle_time_mills=2"}, Source: "ranges", PauseMillis: 1},
	{Name: "streaming-split", Options: []string{"streaming=true", "max_bundle_time_mills=2"}, Source: "resuming", PauseMillis: 1},
	{Name: "batch-killed", Options: []string{"max_bundle_size=4"}, Kill: true},
	{Name: "streaming-killed", Options: []string{"streaming=true", "max_bundle_size=4"}, Kill: true},
}

const (
	always  = 4 // ways in which all are run
	besides = 3 // of the others
)

// waysOf are the ways of the nth group of pipelines.
func waysOf(n int, o options) []way {
	var out []way
	for i, w := range ways {
		rest := len(ways) - always
		turn := i < always || ((i-always-besides*n)%rest+rest)%rest < besides
		if o.way == w.Name || o.way == "all" || o.way == "" && turn {
			out = append(out, w)
		}
	}
	return out
}
