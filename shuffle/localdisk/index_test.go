package localdisk

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func FuzzParseIndex(f *testing.F) {
	good := appendIndex(nil, theID, 4, []entry{
		{sub: 1, count: 2, raw: 300, kind: compressed, stored: 100, sum: 7},
		{sub: 3, count: 1, raw: 20, kind: rawOnDisk, stored: 20, off: 100, sum: 8},
	}, 120)
	f.Add(good[:len(good)-footerSize], int64(120))
	f.Fuzz(func(t *testing.T, index []byte, end int64) {
		id, subs, entries, err := parseIndex(index, end)
		if err != nil {
			return
		}
		for _, e := range entries {
			if e.sub >= subs || e.off < 0 || e.off+int64(e.stored) > end {
				t.Fatalf("an entry out of bounds: %+v", e)
			}
		}
		again := appendIndex(nil, id, subs, entries, end)
		_, _, same, err := parseIndex(again[:len(again)-footerSize], end)
		if err != nil || !cmp.Equal(entries, same, cmp.AllowUnexported(entry{})) {
			t.Fatalf("%v: %v became %v", err, entries, same)
		}
	})
}
