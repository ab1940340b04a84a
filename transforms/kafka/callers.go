package kafka

import (
	"context"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

// Go's SDK calls a DoFn by reflection, which costs more than all that is done here
// for a record, unless it was told how functions of that type are called. It is
// told by functions of the type. These are of the types of our own ProcessElements,
// and of such as only take what a topic gives, so that nobody need register more
// than his DoFn's type.
func init() {
	register.Function2x0(takesPair)
	register.Function2x1(triesPair)
	register.Function3x0(takesPairIn)
	register.Function3x1(triesPairIn)
	register.Function1x0(takesMessage)
	register.Function1x1(triesMessage)
	register.Function2x0(takesMessageIn)
	register.Function2x1(triesMessageIn)
	register.Function3x1(triesMessageAt)
	register.Function3x1(triesEncoded)
}

func takesPair(_, _ []byte)                                         {}
func triesPair(_, _ []byte) error                                   { return nil }
func takesPairIn(context.Context, []byte, []byte)                   {}
func triesPairIn(context.Context, []byte, []byte) error             { return nil }
func takesMessage(Message)                                          {}
func triesMessage(Message) error                                    { return nil }
func takesMessageIn(context.Context, Message)                       {}
func triesMessageIn(context.Context, Message) error                 { return nil }
func triesMessageAt(context.Context, beam.EventTime, Message) error { return nil }
func triesEncoded(_ context.Context, _ int, _ []byte) error         { return nil }
