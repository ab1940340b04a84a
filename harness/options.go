package harness

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/structpb"
)

type optionsStruct = *structpb.Struct

// environmentType finds how the client asked for its workers. Python says
// environment_type, Java defaultEnvironmentType, and Go has its options in an
// option of their own.
func environmentType(options optionsStruct) string {
	for _, name := range []string{"environment_type", "default_environment_type", "defaultEnvironmentType"} {
		if v := option(options, name).GetStringValue(); v != "" {
			return v
		}
	}
	return ""
}

// hasExperiment reports whether the client said --experiments=name.
func hasExperiment(options optionsStruct, name string) bool {
	v := option(options, "experiments")
	said := strings.Split(v.GetStringValue(), ",")
	for _, e := range v.GetListValue().GetValues() {
		said = append(said, e.GetStringValue())
	}
	return slices.Contains(said, name)
}

// option finds a pipeline option by its plain name, or nil.
func option(options optionsStruct, name string) *structpb.Value {
	fields := options.GetFields()
	if v := fields["beam:option:"+name+":v1"]; v != nil {
		return v
	}
	if v := fields[name]; v != nil {
		return v
	}
	goOptions := fields["beam:option:go_options:v1"].GetStructValue()
	return goOptions.GetFields()["options"].GetStructValue().GetFields()[name]
}
