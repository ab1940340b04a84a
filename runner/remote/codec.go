package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"trestle/runner/task"
)

// encodeReport makes a report that is no progress, within bounds, for the wire.
func encodeReport(r task.Report) json.RawMessage {
	switch {
	case r.Finished != nil && len(r.Finished.Metrics) > maxMetrics:
		f := *r.Finished
		f.Metrics = nil
		r.Finished = &f
	case r.Failed != nil && len(r.Failed.Message) > maxMessage:
		f := *r.Failed
		f.Message = cut(f.Message)
		r.Failed = &f
	}
	b, err := json.Marshal(r)
	if err == nil && len(b) <= maxItem {
		return b
	}
	f := &task.Failed{Cause: task.CauseRunner}
	switch {
	case r.Finished != nil:
		f.ID, f.Message = r.Finished.ID, fmt.Sprintf("what the task wrote takes %d bytes to tell", len(b))
	case r.Failed != nil:
		f.ID, f.Message, f.Cause = r.Failed.ID, r.Failed.Message, r.Failed.Cause
	}
	if err != nil {
		f.Message = "the task's report can't be written down: " + err.Error()
	}
	b, _ = json.Marshal(task.Report{Failed: f}) // strings and numbers
	return b
}

// cut keeps both ends of a message.
func cut(s string) string {
	const half = maxMessage / 2
	return strings.ToValidUTF8(s[:half]+"\n[…]\n"+s[len(s)-half:], "\uFFFD")
}

// decodeReport reads a report, of which exactly one field must be set.
func decodeReport(b json.RawMessage) (task.Report, error) {
	var r task.Report
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read report: %w", err)
	}
	n := 0
	for _, set := range []bool{r.Started != nil, r.Finished != nil, r.Failed != nil, r.Draining} {
		if set {
			n++
		}
	}
	if n != 1 || r.Progress != nil {
		return r, errors.New("read report: it must be one of started, finished, failed and draining")
	}
	return r, nil
}

// over gives the task that a report is the end of.
func over(r task.Report) (id task.ID, ended bool) {
	switch {
	case r.Finished != nil:
		return r.Finished.ID, true
	case r.Failed != nil:
		return r.Failed.ID, true
	}
	return task.ID{}, false
}

func encodeInventory(has task.Inventory) *inventory {
	out := &inventory{Running: has.Running, Queues: has.Queues}
	for _, h := range has.Held {
		out.Held = append(out.Held, held{h.Job, h.Dataset, encodePartitions(h.Partitions)})
	}
	return out
}

func decodeInventory(in *inventory) (task.Inventory, error) {
	if in == nil {
		return task.Inventory{}, nil
	}
	out := task.Inventory{Running: in.Running, Queues: in.Queues}
	for _, h := range in.Held {
		ps, err := appendPartitions(nil, h.Partitions)
		if err != nil {
			return out, fmt.Errorf("read inventory: %w", err)
		}
		out.Held = append(out.Held, task.HeldPartitions{Job: h.Job, Dataset: h.Dataset, Partitions: ps})
	}
	return out, nil
}

// encodeSpec takes the lists out of a spec.
func encodeSpec(l *lender, s task.Spec) spec {
	out := spec{Inputs: encodeInputs(l, s.Inputs), SideInputs: encodeInputs(l, s.SideInputs)}
	s.Inputs, s.SideInputs = nil, nil
	out.Spec = s
	return out
}

func encodeInputs(l *lender, ins []task.Input) []input {
	var out []input
	for _, in := range ins {
		e := input{
			Partitions: refer(l, in.Partitions, false, encodePartitions),
			At:         refer(l, in.At, true, encodeNames),
		}
		in.Partitions, in.At = nil, nil
		e.Input = in
		out = append(out, e)
	}
	return out
}

func decodeSpec(b *borrower, s spec) (task.Spec, error) {
	out := s.Spec
	var err error
	if out.Inputs, err = decodeInputs(b, s.Inputs); err == nil {
		out.SideInputs, err = decodeInputs(b, s.SideInputs)
	}
	return out, err
}

func decodeInputs(b *borrower, ins []input) ([]task.Input, error) {
	var out []task.Input
	for _, in := range ins {
		d := in.Input
		var err error
		if d.Partitions, err = resolve(in.Partitions, b.partitions, appendPartitions); err != nil {
			return nil, err
		}
		if d.At, err = resolve(in.At, b.names, appendNames); err != nil {
			return nil, err
		}
		if d.At != nil && len(d.At) != len(d.Partitions) {
			return nil, fmt.Errorf("%d partitions are at %d places", len(d.Partitions), len(d.At))
		}
		out = append(out, d)
	}
	return out, nil
}
