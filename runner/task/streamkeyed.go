package task

import (
	"context"

	"trestle/coders"
	"trestle/element"
	"trestle/runner/bundle"
	"trestle/runner/window"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
)

// keyed is the root of transforms with state and timers, which outlive bundles.
type keyed struct {
	s      *stream
	w      *coders.Windowed
	timers *streamTimers
	sorter *sorter // nil unless the elements must come in the order of their time
}

func newKeyed(s *stream) *keyed {
	k := &keyed{s: s, w: s.r.prog.Input, timers: newStreamTimers(s)}
	if s.r.prog.Sorted {
		k.sorter = &sorter{s: s, latenessMillis: s.r.prog.Stream.LatenessMillis}
	}
	return k
}

func (k *keyed) add(_ context.Context, block []byte, _ int) error {
	var v coders.Value
	var wins []window.Window
	input := k.s.marks.Input()
	for len(block) > 0 {
		var err error
		if block, err = k.w.Next(block, &v); err != nil {
			return err
		}
		if wins, err = decodeWindows(k.w, wins[:0], &v); err != nil {
			return err
		}
		late := 0
		for _, w := range wins {
			if window.Passed(input, w.Expiry(k.s.r.prog.Stream.LatenessMillis)) {
				late++
				continue
			}
			k.timers.expire(v.Key(), w, encodeWindow(nil, k.w, w))
		}
		elem := v.Raw
		k.s.lost.late += int64(late)
		if late == len(wins) {
			continue // all its windows have expired, and their state is gone
		}
		if late > 0 {
			elem = k.without(&v, wins, input)
		}
		if k.sorter != nil {
			if !k.sorter.put(elem, v.Timestamp()) {
				k.s.lost.late++
			}
			continue
		}
		if err := k.s.give(elem, 1); err != nil {
			return err
		}
	}
	return nil
}

// without is the element without its windows that have expired.
func (k *keyed) without(v *coders.Value, wins []window.Window, input element.Timestamp) []byte {
	var codes []byte
	n := 0
	for _, w := range wins {
		if !window.Passed(input, w.Expiry(k.s.r.prog.Stream.LatenessMillis)) {
			codes = encodeWindow(codes, k.w, w)
			n++
		}
	}
	return append(coders.AppendHeader(nil, v.Timestamp(), n, codes, v.Pane), v.Elem...)
}

func (k *keyed) step(ctx context.Context) (bool, error) {
	at := min(k.s.marks.Input(), k.s.blockedFrom) // timers don't overtake what waits for a side input
	if k.sorter == nil {
		return k.timers.fire(ctx, at)
	}
	// Elements and timers come in the order of the watermarks that let them go.
	if did, err := k.sorter.give(min(at, k.timers.nextEvent())); did || err != nil {
		return did, err
	}
	return k.timers.fire(ctx, min(at, k.sorter.next()))
}

func (k *keyed) next() element.Timestamp {
	return min(k.timers.processing.next(), k.timers.keys.next())
}

func (k *keyed) empty() bool {
	return k.timers.keys.table.Len() == 0 && (k.sorter == nil || len(k.sorter.waiting) == 0)
}

func (k *keyed) close() error { return k.timers.keys.table.Close() }

func (k *keyed) trim() error {
	if err := k.s.state.Trim(); err != nil {
		return err
	}
	return k.timers.keys.trim()
}

// newState begins the state of a bundle.
func (s *stream) newState() bundle.State {
	st := &streamState{s: s}
	if s.state != nil {
		st.user = s.state.Bundle()
	}
	return st
}

// streamState answers a bundle's state requests.
type streamState struct {
	s    *stream
	user userBundle
}

// userBundle is the state package's bundle; nil where there is no user state.
type userBundle interface {
	Quick(key *fnpb.StateKey) bool
	Get(ctx context.Context, key *fnpb.StateKey, req *fnpb.StateGetRequest) (data, next []byte, err error)
	Append(ctx context.Context, key *fnpb.StateKey, data []byte) error
	Clear(ctx context.Context, key *fnpb.StateKey) error
	Commit() error
	Abort()
}

// Get answers a read; see fnapi.StateHandler.
func (b *streamState) Get(ctx context.Context, key *fnpb.StateKey, req *fnpb.StateGetRequest) (data, next []byte, err error) {
	if k := sideKey(key); k != (bundle.SideKey{}) {
		return b.s.readSide(ctx, k, key, req.GetContinuationToken())
	}
	if b.user == nil {
		return nil, nil, noState(key)
	}
	return b.user.Get(ctx, key, req)
}

// Append adds to user state.
func (b *streamState) Append(ctx context.Context, key *fnpb.StateKey, data []byte) error {
	if b.user == nil {
		return noState(key)
	}
	return b.user.Append(ctx, key, data)
}

// Clear empties user state.
func (b *streamState) Clear(ctx context.Context, key *fnpb.StateKey) error {
	if b.user == nil {
		return noState(key)
	}
	return b.user.Clear(ctx, key)
}

// Commit makes the bundle's writes part of the state.
func (b *streamState) Commit() error {
	if b.user == nil {
		return nil
	}
	return b.user.Commit()
}

// Abort drops the bundle's writes.
func (b *streamState) Abort() {
	if b.user != nil {
		b.user.Abort()
		b.s.r.userTokens.renew()
	}
}
