package window

import (
	"fmt"
	"math"
	"time"

	"trestle/element"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// The URNs of window functions that Beam defines for all SDKs.
const (
	URNGlobal   = "beam:window_fn:global_windows:v1"
	URNFixed    = "beam:window_fn:fixed_windows:v1"
	URNSliding  = "beam:window_fn:sliding_windows:v1"
	URNSessions = "beam:window_fn:session_windows:v1"
)

// mostSliding is in how many sliding windows an element may be.
const mostSliding = 1 << 20

// A Kind says who assigns windows, and how.
type Kind uint8

// The kinds. Windows of a custom kind are assigned by their SDK alone.
const (
	GlobalKind Kind = iota
	FixedKind
	SlidingKind
	SessionsKind
	CustomKind
)

// A Merging says whether and by whose rule windows merge.
type Merging uint8

// The ways to merge.
const (
	NoMerging      Merging = iota
	MergeOverlap           // by the rule of sessions
	MergeByTheirFn         // by the SDK's merge_windows
)

// A Fn is a window function. Times are in milliseconds.
type Fn struct {
	Kind    Kind
	Merging Merging

	Size   int64 // of a fixed or sliding window, or a session's gap; > 0
	Period int64 // between the starts of sliding windows; > 0
	Offset int64 // of the starts from multiples of the period; 0 <= Offset < Period
}

// FnOf reads the window function of a windowing strategy.
func FnOf(ws *pipepb.WindowingStrategy) (Fn, error) {
	var f Fn
	payload := ws.GetWindowFn().GetPayload()
	var err error
	switch ws.GetWindowFn().GetUrn() {
	case URNGlobal:
	case URNFixed:
		var p pipepb.FixedWindowsPayload
		if err = proto.Unmarshal(payload, &p); err == nil {
			f = Fn{Kind: FixedKind, Size: millis(p.GetSize().AsDuration()), Offset: sinceEpoch(p.GetOffset().AsTime())}
			f.Period = f.Size
		}
	case URNSliding:
		var p pipepb.SlidingWindowsPayload
		if err = proto.Unmarshal(payload, &p); err == nil {
			f = Fn{
				Kind: SlidingKind, Size: millis(p.GetSize().AsDuration()),
				Period: millis(p.GetPeriod().AsDuration()), Offset: sinceEpoch(p.GetOffset().AsTime()),
			}
		}
	case URNSessions:
		var p pipepb.SessionWindowsPayload
		if err = proto.Unmarshal(payload, &p); err == nil {
			f = Fn{Kind: SessionsKind, Size: millis(p.GetGapSize().AsDuration()), Period: 1}
		}
	default:
		f.Kind = CustomKind
	}
	if err != nil {
		return Fn{}, fmt.Errorf("the payload of window function %s is malformed: %w", ws.GetWindowFn().GetUrn(), err)
	}
	if f.Kind != GlobalKind && f.Kind != CustomKind && (f.Size <= 0 || f.Period <= 0) {
		return Fn{}, fmt.Errorf("window function %s has windows of %d ms every %d ms; both must be positive",
			ws.GetWindowFn().GetUrn(), f.Size, f.Period)
	}
	if f.Kind == SlidingKind && f.Size/f.Period > mostSliding {
		return Fn{}, fmt.Errorf("sliding windows of %d ms every %d ms put each element into more than %d windows", f.Size, f.Period, mostSliding)
	}
	if f.Period > 0 {
		f.Offset = floorMod(f.Offset, f.Period)
	}
	f.Merging = merging(f.Kind, ws.GetMergeStatus())
	return f, nil
}

// merging is how windows merge that are what their strategy says.
func merging(kind Kind, status pipepb.MergeStatus_Enum) Merging {
	switch {
	case kind == SessionsKind && status != pipepb.MergeStatus_ALREADY_MERGED && status != pipepb.MergeStatus_NON_MERGING:
		return MergeOverlap
	case kind == CustomKind && status == pipepb.MergeStatus_NEEDS_MERGE:
		return MergeByTheirFn
	}
	return NoMerging
}

// Assign appends the windows of an element at ts, latest first. It is for
// windows that aren't of a custom kind.
func (f Fn) Assign(dst []Window, ts element.Timestamp) []Window {
	switch f.Kind {
	case GlobalKind:
		return append(dst, Global)
	case SessionsKind:
		return append(dst, Window{Start: ts, End: plus(ts, f.Size)})
	}
	last := ts - element.Timestamp(floorMod(int64(ts)-f.Offset, f.Period))
	for start := last; start > ts-element.Timestamp(f.Size); start -= element.Timestamp(f.Period) {
		dst = append(dst, Window{Start: start, End: plus(start, f.Size)})
	}
	return dst
}

// plus adds, and stops at the greatest timestamp that can be encoded.
func plus(t element.Timestamp, millis int64) element.Timestamp {
	if millis > math.MaxInt64-max(int64(t), 0) {
		return math.MaxInt64
	}
	return t + element.Timestamp(millis)
}

func millis(d time.Duration) int64 { return d.Milliseconds() }

// sinceEpoch is a proto's timestamp, of which an absent one is the epoch.
func sinceEpoch(t time.Time) int64 { return t.UnixMilli() }

// floorMod is the remainder of a/b that has b's sign.
func floorMod(a, b int64) int64 {
	if m := a % b; m < 0 {
		return m + b
	} else {
		return m
	}
}
