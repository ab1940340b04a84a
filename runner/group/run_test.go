package group

import (
	"bytes"
	"testing"
)

func FuzzCutRecord(f *testing.F) {
	f.Add(appendRecord(nil, &record{hash: 1, start: -2, ts: 3, winLen: 1, key: []byte("wkey"), count: 2, values: []byte("values")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r record
		rest, err := cutRecord(b, &r)
		if err != nil {
			return
		}
		if r.winLen > len(r.key) || len(rest)+len(r.key)+len(r.values) > len(b) {
			t.Fatalf("a record beyond its bytes: %+v", r)
		}
		again := appendRecord(nil, &r)
		var same record
		if _, err := cutRecord(again, &same); err != nil || same.compare(&r) != 0 || !bytes.Equal(same.values, r.values) || same.count != r.count || same.ts != r.ts {
			t.Fatalf("%v: %+v became %+v", err, r, same)
		}
	})
}
