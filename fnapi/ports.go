package fnapi

import (
	"fmt"
	"slices"

	fnpb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/fnexecution_v1"
	"google.golang.org/protobuf/proto"
)

// The transforms of a descriptor through which data pass between runner and
// worker; their payload is a RemoteGrpcPort.
const (
	urnSource = "beam:runner:source:v1"
	urnSink   = "beam:runner:sink:v1"
)

// A descriptor is what SetDescriptor was given, with the lane that its ports
// name.
type descriptor struct {
	proto *fnpb.ProcessBundleDescriptor
	lane  int
	err   error // why it can't be run
}

// laneOf finds the lane that all ports of d name: a bundle's data come and go by
// one stream, so that its loss is the bundle's. Descriptors without ports use
// lane 0.
func laneOf(d *fnpb.ProcessBundleDescriptor, urls []string) (int, error) {
	url := d.GetTimerApiServiceDescriptor().GetUrl()
	for id, t := range d.GetTransforms() {
		if urn := t.GetSpec().GetUrn(); urn != urnSource && urn != urnSink {
			continue
		}
		var port fnpb.RemoteGrpcPort
		if err := proto.Unmarshal(t.GetSpec().GetPayload(), &port); err != nil {
			return 0, fmt.Errorf("bundle descriptor %s: port of transform %s: %w", d.GetId(), id, err)
		}
		u := port.GetApiServiceDescriptor().GetUrl()
		if url != "" && u != url {
			return 0, fmt.Errorf("bundle descriptor %s: its ports name two endpoints, %s and %s; want one lane", d.GetId(), url, u)
		}
		url = u
	}
	if url == "" {
		return 0, nil
	}
	lane := slices.Index(urls, url)
	if lane < 0 {
		return 0, fmt.Errorf("bundle descriptor %s: port %s is none of the lanes %v", d.GetId(), url, urls)
	}
	return lane, nil
}
