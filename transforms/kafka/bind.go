package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
)

// URNBound names the description of a replay, from which Bind finds out its
// bounds. It stands in the payload of the Impulse that a replay begins with, or
// as an annotation of what reads that: a runner that knows it gives the bounds
// as the Impulse's element.
const (
	URNBound        = "trestle:bound_input:kafka:v1"
	annotationBound = "trestle:bound_input:v1"
)

// describe describes a Replay or an unendingSource. It holds what is needed to
// log in, like the pipeline itself.
func describe(what any) []byte {
	source, err := json.Marshal(what)
	if err == nil {
		source, err = proto.Marshal(&pipepb.FunctionSpec{Urn: URNBound, Payload: source})
	}
	if err != nil {
		panic(err) // strings and numbers can be written down
	}
	return source
}

// An unendingSource is how a Live is described, so that it isn't taken for a
// Replay.
type unendingSource struct {
	Live
	Unending bool `json:"unending"`
}

// Bind finds out the bounds of a described replay, in the form in which its
// Impulse's element gives them, without secrets; and what its author should
// know of them.
func Bind(ctx context.Context, description []byte) (bounds []byte, notes []string, err error) {
	var l unendingSource
	if err := json.Unmarshal(description, &l); err == nil && l.Unending {
		return bindLive(ctx, l.Live)
	}
	var r Replay
	if err := json.Unmarshal(description, &r); err != nil {
		return nil, nil, errors.New("kafka replay: its description can't be read") // not the cause: it may quote secrets
	}
	found, err := Resolve(ctx, r.Source)
	if err != nil {
		return nil, nil, fmt.Errorf("kafka replay: %w", err)
	}
	notes = r.notes(found)
	found.Warnings = nil
	bounds, err = json.Marshal(found)
	return bounds, notes, err
}

// bindLive is Bind for a live reading.
func bindLive(ctx context.Context, l Live) (bounds []byte, notes []string, err error) {
	found, err := l.Resolve(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("kafka: %w", err)
	}
	notes, found.Warnings = found.Warnings, nil
	bounds, err = json.Marshal(found)
	return bounds, notes, err
}

// Asked says of which topics a description is, and which brokers it names, for
// who has to tell that they could not be asked.
func Asked(description []byte) string {
	var r Replay
	if err := json.Unmarshal(description, &r); err != nil {
		return "kafka replay"
	}
	return fmt.Sprintf("kafka replay of topic %q: brokers at %s", strings.Join(r.Source.Topics, ", "), strings.Join(r.Source.Connection.Servers, ","))
}

// notes are what the author of a replay should know of its bounds.
func (r Replay) notes(bounds Bounds) []string {
	notes := bounds.Warnings
	if r.Stamp == ByProcessing {
		notes = append(notes[:len(notes):len(notes)], fmt.Sprintf(
			"all records get one event time, %s, since the timestamp policy is ProcessingTime; use CreateTime or LogAppendTime for the records' own",
			time.UnixMilli(bounds.Time).UTC().Format(time.RFC3339)))
	}
	return notes
}
