package bundle

import (
	"testing"
	"time"

	"trestle/element"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The rest of a restriction gives nothing before the least of what it says of its
// outputs; of one that says nothing, nothing is known.
func TestResidualWatermark(t *testing.T) {
	at := func(millis ...int64) element.Timestamp {
		app := &fnpb.BundleApplication{OutputWatermarks: map[string]*timestamppb.Timestamp{}}
		for i, m := range millis {
			app.OutputWatermarks[string(rune('a'+i))] = timestamppb.New(time.UnixMilli(m))
		}
		return residual(&fnpb.DelayedBundleApplication{Application: app}).Watermark
	}
	if got := at(); got != element.MinTimestamp {
		t.Errorf("without one it is %s", got)
	}
	for range 50 { // in whatever order
		if got := at(20, -10, 30); got != -10 {
			t.Fatalf("of 20, -10 and 30 it is %s", got)
		}
	}
}
