package kafka

import (
	"context"
	"errors"
	"fmt"

	"trestle/jobservice/expansion"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// schemaManaged is what Beam's Managed asks for: another transform, by its
// identifier, with a configuration in YAML.
const schemaManaged = "beam:transform:managed:v1"

// managedConfig is the schema of its configuration.
func managedConfig() *pipepb.Schema {
	fields := []*pipepb.Field{
		field("transform_identifier", pipepb.AtomicType_STRING, "the transform"),
		field("config_url", pipepb.AtomicType_STRING, "not supported"),
		field("config", pipepb.AtomicType_STRING, "the transform's configuration, as YAML"),
		field("skip_config_validation", pipepb.AtomicType_BOOLEAN, ""),
	}
	return schemaOf("trestle-managed-1", 1, fields)
}

// expandManaged expands the transform that is asked for.
func (p Provider) expandManaged(ctx context.Context, f *fields, r expansion.Request) (expansion.Fragment, error) {
	r.URN = f.text("transform_identifier")
	errs := []error{f.unsupported("config_url")}
	if p.ParseYAML == nil {
		errs = append(errs, errors.New("this expansion service reads no YAML"))
	} else if _, ok := p.SchemaTransforms()[r.URN]; !ok || r.URN == schemaManaged {
		errs = append(errs, fmt.Errorf("there is no managed transform %q here", r.URN))
	}
	if err := f.err(errs...); err != nil {
		return expansion.Fragment{}, err
	}
	var config map[string]any
	if err := p.ParseYAML([]byte(f.text("config")), &config); err != nil {
		return expansion.Fragment{}, errors.New("config is no YAML") // not the cause: it may quote secrets
	}
	r.Config = expansion.Row{}
	for name, v := range config {
		r.Config[name] = plainYAML(v)
	}
	return p.Expand(ctx, r)
}

// plainYAML gives a value as one of a row's.
func plainYAML(v any) any {
	switch v := v.(type) {
	case int:
		return int64(v)
	case []any:
		for i := range v {
			v[i] = plainYAML(v[i])
		}
	case map[string]any:
		row := expansion.Row{}
		for name, one := range v {
			row[name] = plainYAML(one)
		}
		return row
	}
	return v
}
