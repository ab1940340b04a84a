package kafka

import (
	"testing"

	"pgregory.net/rapid"
)

// TestTracker claims and splits in any order: every offset is handed out by one
// tracker, whatever was split off.
func TestTracker(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole := Restriction{Start: rapid.Int64Range(0, 50).Draw(t, "start")}
		whole.End = whole.Start + rapid.Int64Range(0, 200).Draw(t, "size")
		seen := map[int64]int{}
		todo := []Restriction{whole}
		for len(todo) > 0 {
			r := todo[0]
			todo = todo[1:]
			tr := newTracker(r)
			at := r.Start
			for !tr.IsDone() {
				if rapid.Bool().Draw(t, "split") {
					before := tr.GetRestriction().(Restriction)
					primary, residual, err := tr.TrySplit(rapid.Float64Range(0, 1).Draw(t, "fraction"))
					if err != nil {
						t.Fatal(err)
					}
					p := primary.(Restriction)
					if residual == nil {
						if p != before {
							t.Fatalf("no residual, and %v became %v", before, p)
						}
					} else if rest := residual.(Restriction); p.End != rest.Start || rest.End != before.End || rest.Start >= rest.End {
						t.Fatalf("%v became %v and %v", before, p, rest)
					} else {
						todo = append(todo, rest)
					}
					continue
				}
				granted := tr.claim(at + rapid.Int64Range(1, 30).Draw(t, "claim"))
				for ; at < granted; at++ {
					seen[at]++
				}
			}
			if done, left := tr.GetProgress(); left != 0 || done != float64(tr.GetRestriction().(Restriction).End-r.Start) {
				t.Fatalf("done, and progress is %v of %v", done, left)
			}
		}
		for o := whole.Start; o < whole.End; o++ {
			if seen[o] != 1 {
				t.Fatalf("offset %d was handed out %d times", o, seen[o])
			}
		}
		if int64(len(seen)) != whole.End-whole.Start {
			t.Fatalf("%d offsets, want %d", len(seen), whole.End-whole.Start)
		}
	})
}

// TestCheckpoint keeps nothing of what is left.
func TestCheckpoint(t *testing.T) {
	tr := newTracker(Restriction{Start: 10, End: 20})
	if !tr.TryClaim(int64(12)) {
		t.Fatal("12 of [10, 20) was refused")
	}
	primary, residual, err := tr.TrySplit(0)
	if err != nil || primary != (Restriction{Start: 10, End: 13}) || residual != (Restriction{Start: 13, End: 20}) || !tr.IsDone() {
		t.Errorf("split into %v and %v, %v, done: %v", primary, residual, err, tr.IsDone())
	}
	if tr.TryClaim(int64(13)) || !tr.IsDone() {
		t.Error("claimed what was split off")
	}
	if tr.TryClaim("13") || tr.GetError() == nil {
		t.Error("claimed a string")
	}
}

// TestUnending is left off and never shared, and has always something left.
func TestUnending(t *testing.T) {
	tr := newTracker(Restriction{Start: 5, End: unending})
	if got := tr.claim(20); got != 20 || tr.IsDone() || tr.IsBounded() {
		t.Errorf("claimed up to %d, done %v, bounded %v", got, tr.IsDone(), tr.IsBounded())
	}
	tr.reaches(20)
	if done, left := tr.GetProgress(); done != 15 || left != 1 {
		t.Errorf("%v is done, %v is left", done, left)
	}
	for _, fraction := range []float64{0.01, 0.5, 1} {
		if p, r, err := tr.TrySplit(fraction); p != (Restriction{Start: 5, End: unending}) || r != nil || err != nil {
			t.Errorf("split into %v and %v: %v", p, r, err)
		}
	}
	if got := tr.claimAll(25, 99); got != 25 {
		t.Errorf("claimed up to %d", got)
	}
	if p, r, err := tr.TrySplit(0); p != (Restriction{Start: 5, End: 25}) || r != (Restriction{Start: 25, End: unending, Seen: 99}) || err != nil {
		t.Errorf("left off with %v and %v: %v", p, r, err)
	}
	if got := tr.claimAll(30, 200); got != 25 || tr.seen != 99 || !tr.IsDone() || !tr.IsBounded() {
		t.Errorf("then claimed up to %d, done %v, bounded %v", got, tr.IsDone(), tr.IsBounded())
	}
}
