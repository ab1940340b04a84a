package bundle

import (
	"fmt"
	"testing"
)

// Go's SDK is sent one mark for each transform, the others one for each family.
func TestMarks(t *testing.T) {
	p := &Program{Timers: [][2]string{{"a", "1"}, {"a", "2"}, {"b", "1"}, {"c", "1"}, {"c", "2"}, {"c", "3"}}}
	for _, test := range []struct {
		oneMark bool
		want    string
	}{
		{false, "[[a 1] [a 2] [b 1] [c 1] [c 2] [c 3]] []"},
		{true, "[[a 1] [b 1] [c 1]] [[a 2] [c 2] [c 3]]"},
	} {
		p.OneMark = test.oneMark
		last, named := p.marks()
		if got := fmt.Sprint(last, named); got != test.want {
			t.Errorf("one mark %v: %s, want %s", test.oneMark, got, test.want)
		}
	}
}
