package watermark_test

import (
	"math/rand/v2"
	"testing"

	"trestle/element"
	"trestle/runner/watermark"
)

// However many holds come and go in whatever order, the least of those that are
// there counts.
func TestManyHolds(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var h watermark.Holds
	var held []element.Timestamp
	for i := range 20_000 {
		// They come to hundreds, and go to a few, again and again.
		if grows := i/1000%2 == 0; len(held) == 0 || rnd.IntN(10) < 3 != grows {
			at := element.Timestamp(rnd.IntN(2000))
			h.Add(at)
			held = append(held, at)
		} else {
			last := len(held) - 1
			n := rnd.IntN(len(held))
			h.Remove(held[n])
			held[n], held = held[last], held[:last]
		}
		want := element.MaxTimestamp
		for _, at := range held {
			want = min(want, at)
		}
		if got := h.Least(); got != want {
			t.Fatalf("after %d steps, with %d holds, the least is %s, want %s", i, len(held), got, want)
		}
	}
}

// Ready is what Settle would say of all that has come in.
func TestReady(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		one, other := watermark.NewTracker(2), watermark.NewTracker(2)
		var held []element.Timestamp
		for i := range 30 {
			at := element.Timestamp(rnd.IntN(50))
			if rnd.IntN(20) == 0 {
				at = element.MaxTimestamp
			}
			switch n := rnd.IntN(3); {
			case n == 0 && len(held) > 0:
				one.Release(held[0])
				other.Release(held[0])
				held = held[1:]
			case n == 1:
				one.Hold(at)
				other.Hold(at)
				held = append(held, at)
			default:
				m := watermark.Mark{Watermark: at, Idle: rnd.IntN(3) == 0}
				input := rnd.IntN(2)
				one.Advance(input, m)
				other.Advance(input, m)
			}
			ready := one.Ready()
			if said, _ := other.Settle(other.Input()); said != ready {
				t.Fatalf("after %d steps %v is ready, and %v is said", i+1, ready, said)
			}
			if rnd.IntN(3) == 0 {
				one.Settle(one.Input())
			}
			if one.Output() != other.Output() {
				break // only one of them has promised what was held since
			}
		}
	}
}

// An input that has ended is not idle, whatever it says: where another one is, the
// end is not near.
func TestEndIsNotIdle(t *testing.T) {
	tr := watermark.NewTracker(2)
	tr.Advance(0, watermark.Mark{Watermark: element.MaxTimestamp, Idle: true})
	tr.Advance(1, watermark.Mark{Watermark: 5, Idle: true})
	if said, _ := tr.Settle(tr.Input()); said != (watermark.Mark{Watermark: 5, Idle: true}) {
		t.Errorf("it says %v", said)
	}
	tr.Advance(1, watermark.End)
	if said, _ := tr.Settle(tr.Input()); said != watermark.End {
		t.Errorf("at the end it says %v", said)
	}
}
