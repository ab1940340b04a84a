// Package region types the edges of a job graph and groups its stages into
// pipeline regions.
package region

import (
	"fmt"

	"trestle/runner/jobgraph"
)

// A Mode says which datasets may be read while they are written.
type Mode string

const (
	AllBlocking        Mode = "all-blocking"
	PointwisePipelined Mode = "pointwise-pipelined" // the default for bounded input
	AllPipelined       Mode = "all-pipelined"       // where the slots suffice
)

// ParseMode reads the value of the job option exchange_mode; "" is the default.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return PointwisePipelined, nil
	case AllBlocking, PointwisePipelined, AllPipelined:
		return m, nil
	}
	return "", fmt.Errorf("exchange_mode %q is not known; use %s, %s or %s", s, AllBlocking, PointwisePipelined, AllPipelined)
}

// Options say how regions are wanted. The zero value is PointwisePipelined.
type Options struct {
	Mode Mode
	// Slots bounds the regions of AllPipelined: no region has more pointwise
	// chains, each of which needs a slot at the same time. 0 means no bound.
	Slots int
}

// Compute fills in every Dataset.Exchange, g.Regions, Stage.Region and
// Stage.Head.
func Compute(g *jobgraph.Graph, o Options) {}
