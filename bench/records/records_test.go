package records

import "testing"

// TestWant adds up what the closed form says.
func TestWant(t *testing.T) {
	for _, c := range []Config{{1, 1, 1}, {2, 5, 1}, {1000, 7, 3}, {100_000, 25_000, 1}} {
		var got Totals
		b, scratch := make([]byte, Bytes), make([]byte, Bytes)
		keys := map[string]bool{}
		for i := range c.Records {
			c.fill(b, i)
			keys[string(b[:KeyBytes])] = true
			n, ok := c.number(b[:KeyBytes], b[KeyBytes:], scratch)
			if !ok || n != i {
				t.Fatalf("record %d of %+v is read as %d, %v", i, c, n, ok)
			}
			got.count(n, ok)
		}
		got.Groups = int64(len(keys))
		if want := c.Want(); got != want {
			t.Errorf("%+v: got %+v, want %+v", c, got, want)
		}
	}
}

// TestWantBeyond64Bits: the sums themselves don't fit.
func TestWantBeyond64Bits(t *testing.T) {
	c := Config{Records: 5_000_000, Keys: 1, Splits: 1}
	var want Totals
	for i := range c.Records {
		want.count(i, true)
	}
	want.Groups = 1
	if got := c.Want(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestEveryByteCounts changes a record at each place.
func TestEveryByteCounts(t *testing.T) {
	c := Config{Records: 1000, Keys: 10, Splits: 1}
	b, scratch := make([]byte, Bytes), make([]byte, Bytes)
	for at := range b {
		c.fill(b, 123)
		b[at] ^= 4
		if _, ok := c.number(b[:KeyBytes], b[KeyBytes:], scratch); ok {
			t.Errorf("byte %d was changed and nobody saw it", at)
		}
	}
	c.fill(b, 123)
	if _, ok := c.number(b[:KeyBytes], b[KeyBytes:Bytes-1], scratch); ok {
		t.Error("a short value was not seen")
	}
}
