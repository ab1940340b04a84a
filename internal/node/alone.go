package node

import "context"

// alone is a group of one whose log is on this machine: what was acknowledged
// is shown.
type alone struct{}

func (alone) Leader() (string, bool)                    { return "", false }
func (alone) ReadIndex(context.Context) (uint64, error) { return 0, nil }
func (alone) WaitApplied(context.Context, uint64) error { return nil }
