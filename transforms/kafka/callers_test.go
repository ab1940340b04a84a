package kafka

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/util/reflectx"
)

type countingFn struct{ n int }

func (f *countingFn) ProcessElement(_, _ []byte) { f.n++ }

// TestCallers: DoFns that take what a topic gives are called without reflection,
// though they are not registered, and so are our own.
func TestCallers(t *testing.T) {
	count := &countingFn{}
	for _, fn := range []any{count, &copyFn{}, &encodedFn{}} {
		method := reflect.ValueOf(fn).MethodByName("ProcessElement").Interface()
		if how := fmt.Sprintf("%T", reflectx.MakeFunc(method)); how == "*reflectx.reflectFunc" {
			t.Errorf("%T is called by %s", fn, how)
		}
	}
	call := reflectx.ToFunc2x0(reflectx.MakeFunc(count.ProcessElement))
	var key, value any = []byte("k"), []byte(nil)
	if n := testing.AllocsPerRun(100, func() { call.Call2x0(key, value) }); n > 0 || count.n != 101 {
		t.Errorf("%d calls, with %v allocations each", count.n, n)
	}
}
