package kafka

import (
	"reflect"
	"sync/atomic"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

func init() { beam.RegisterType(reflect.TypeFor[countFn]()) }

// counted is what countFn has seen, in this process.
var counted atomic.Int64

// countFn counts records, a bundle at a time.
type countFn struct{ n int64 }

func (f *countFn) ProcessElement(_, _ []byte) { f.n++ }

func (f *countFn) FinishBundle() {
	counted.Add(f.n)
	f.n = 0
}
