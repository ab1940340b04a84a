package records

import (
	"context"
	"testing"
)

// found is what a pipeline of that configuration would find.
func found(c Config) Totals {
	f := groupFn{Config: c}
	f.StartBundle(nil)
	var out Totals
	for k := range c.Keys {
		i := k
		f.ProcessElement(pair(c, k)[:KeyBytes], func(v *[]byte) bool {
			if i >= c.Records {
				return false
			}
			*v = pair(c, i)[KeyBytes:]
			i += c.Keys
			return true
		}, nil)
	}
	f.FinishBundle(func(t Totals) { out = t })
	return out
}

func pair(c Config, i int64) []byte {
	b := make([]byte, Bytes)
	c.fill(b, i)
	return b
}

// TestCompare: right totals pass, in one bundle or in several, and each fault
// is an error.
func TestCompare(t *testing.T) {
	c := Config{Records: 1000, Keys: 30, Splits: 1}
	right := found(c)
	half := Totals{Groups: 11, Records: 400, Sum: 123, Squares: 1 << 63}
	rest := Totals{right.Groups - 11, right.Records - 400, right.Wrong, right.Sum - 123, right.Squares - 1<<63}
	for name, test := range map[string]struct {
		totals []Totals
		ok     bool
	}{
		"right":              {[]Totals{right}, true},
		"several bundles":    {[]Totals{half, {}, rest}, true},
		"nothing":            {nil, false},
		"twice":              {[]Totals{right, right}, false},
		"a group cut in two": {[]Totals{right, {Groups: 1}}, false},
		"a record lost":      {[]Totals{{right.Groups, right.Records - 1, 0, right.Sum - 5, right.Squares - 25}}, false},
		"5 twice, 7 lost":    {[]Totals{{right.Groups, right.Records, 0, right.Sum - 2, right.Squares - 24}}, false},
		"a record changed":   {[]Totals{{right.Groups, right.Records, 1, right.Sum, right.Squares}}, false},
	} {
		left := test.totals
		err := (&compareFn{Config: c}).ProcessElement(context.Background(), nil, func(t *Totals) bool {
			if len(left) == 0 {
				return false
			}
			*t, left = left[0], left[1:]
			return true
		})
		if (err == nil) != test.ok {
			t.Errorf("%s: error %v, want one: %v", name, err, !test.ok)
		}
	}
}
