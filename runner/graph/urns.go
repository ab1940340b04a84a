package graph

import (
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// URNs of the transforms that the runner tells apart.
const (
	URNImpulse    = "beam:transform:impulse:v1"
	URNParDo      = "beam:transform:pardo:v1"
	URNGroupByKey = "beam:transform:group_by_key:v1"
	URNFlatten    = "beam:transform:flatten:v1"

	URNReshuffle               = "beam:transform:reshuffle:v1"
	URNRedistributeByKey       = "beam:transform:redistribute_by_key:v1"
	URNRedistributeArbitrarily = "beam:transform:redistribute_arbitrarily:v1"

	URNCombinePerKey        = "beam:transform:combine_per_key:v1"
	URNPrecombine           = "beam:transform:combine_per_key_precombine:v1"
	URNMergeAccumulators    = "beam:transform:combine_per_key_merge_accumulators:v1"
	URNExtractOutputs       = "beam:transform:combine_per_key_extract_outputs:v1"
	URNConvertAccumulators  = "beam:transform:combine_per_key_convert_to_accumulators:v1"
	URNCombineGroupedValues = "beam:transform:combine_grouped_values:v1"

	URNPairWithRestriction = "beam:transform:sdf_pair_with_restriction:v1"
	URNSplitAndSize        = "beam:transform:sdf_split_and_size_restrictions:v1"
	URNProcessRestrictions = "beam:transform:sdf_process_sized_element_and_restrictions:v1"
	URNTruncate            = "beam:transform:sdf_truncate_sized_restrictions:v1"

	URNWindowInto   = "beam:transform:window_into:v1"
	URNMapWindows   = "beam:transform:map_windows:v1"
	URNMergeWindows = "beam:transform:merge_windows:v1"
	URNToString     = "beam:transform:to_string:v1"

	URNTestStream = "beam:transform:teststream:v1"
	urnRead       = "beam:transform:read:v1"
	urnCreateView = "beam:transform:create_view:v1"
	urnFused      = "beam:runner:executable_stage:v1"
)

// URNs of the ways to read a side input.
const (
	AccessIterable = "beam:side_input:iterable:v1"
	AccessMultimap = "beam:side_input:multimap:v1"
)

const (
	urnSessions = "beam:window_fn:session_windows:v1"

	stateBag         = "beam:user_state:bag:v1"
	stateMultimap    = "beam:user_state:multimap:v1"
	stateOrderedList = "beam:user_state:ordered_list:v1"
)

// primitives are leaves even where an SDK shows what they consist of.
var primitives = map[string]bool{
	URNImpulse: true, URNParDo: true, URNGroupByKey: true, URNFlatten: true,
	URNPrecombine: true, URNMergeAccumulators: true, URNExtractOutputs: true, URNConvertAccumulators: true,
	URNPairWithRestriction: true, URNSplitAndSize: true, URNProcessRestrictions: true, URNTruncate: true,
	URNWindowInto: true, URNMapWindows: true, URNMergeWindows: true, URNToString: true,
	URNTestStream: true,
}

// wholes are composites that the runner may do as a whole.
var wholes = map[string]Kind{
	URNReshuffle:               Reshuffle,
	URNRedistributeByKey:       Reshuffle,
	URNRedistributeArbitrarily: Reshuffle,
	URNCombinePerKey:           CombinePerKey,
}

// markers are composites by nature: as leaves they say nothing of what is to
// be done, so they can only be left over from a rewrite by the SDK.
var markers = map[string]bool{
	"":                                    true,
	"beam:transform:generic_composite:v1": true,
	"beam:transform:pickled_python:v1":    true,
	"beam:transform:combine_globally:v1":  true,
	urnCreateView:                         true,
}

// isSDKs reports whether a worker may be expected to know the transform: it is
// one of those above, its environment says so, or the URN is of the SDK's own
// making. The rest are names of transforms that some expansion service knows.
func isSDKs(urn string, env *pipepb.Environment) bool {
	if primitives[urn] || urn == URNCombineGroupedValues {
		return true
	}
	for _, c := range env.GetCapabilities() {
		if c == urn {
			return true
		}
	}
	for _, prefix := range []string{"beam:transform:", "beam:schematransform:", "beam:expansion:", "beam:external:"} {
		if strings.HasPrefix(urn, prefix) {
			return false
		}
	}
	return true
}

// requirements lists what a pipeline may demand, in the order of Beam's enum.
func requirements() []string {
	values := pipepb.StandardRequirements_Enum(0).Descriptor().Values()
	var all []string
	for i := range values.Len() {
		all = append(all, enumURN(values.Get(i)))
	}
	return all
}

func enumURN(v protoreflect.EnumValueDescriptor) string {
	urn, _ := proto.GetExtension(v.Options(), pipepb.E_BeamUrn).(string)
	return urn
}
