package jobservice

import (
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"google.golang.org/protobuf/types/known/structpb"
)

// Redacted stands where a secret stood.
const Redacted = "[redacted]"

// Redact returns a copy of options without their secrets: the values of all
// names, at any depth, that sound like one. It would rather hide too much.
func Redact(o *structpb.Struct) *structpb.Struct {
	if o == nil {
		return nil
	}
	return redactStruct(o, 0)
}

// maxDepth bounds the nesting that is shown.
const maxDepth = 32

func redactStruct(o *structpb.Struct, depth int) *structpb.Struct {
	out := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(o.GetFields()))}
	for name, v := range o.GetFields() {
		if secretName(name) && !isFlag(v) {
			out.Fields[name] = structpb.NewStringValue(Redacted)
			continue
		}
		out.Fields[name] = redactValue(v, depth+1)
	}
	return out
}

// isFlag reports values that can't hold a secret: null and booleans.
func isFlag(v *structpb.Value) bool {
	switch v.GetKind().(type) {
	case *structpb.Value_NullValue, *structpb.Value_BoolValue, nil:
		return true
	}
	return false
}

func redactValue(v *structpb.Value, depth int) *structpb.Value {
	if depth > maxDepth {
		return structpb.NewStringValue(Redacted)
	}
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		return structpb.NewStructValue(redactStruct(k.StructValue, depth))
	case *structpb.Value_ListValue:
		out := &structpb.ListValue{}
		for _, e := range k.ListValue.GetValues() {
			out.Values = append(out.Values, redactValue(e, depth+1))
		}
		return structpb.NewListValue(out)
	case *structpb.Value_StringValue:
		return structpb.NewStringValue(redactString(k.StringValue, depth))
	}
	return v
}

var (
	urlPassword = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^/\s:@]*):([^/\s@]+)@`)
	// An assignment inside a longer text, such as --name=value or name: value.
	assignment = regexp.MustCompile(`([A-Za-z_][A-Za-z0-9_.-]*)(\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;&"']+)`)
)

// redactString looks into texts that hold options themselves: JSON objects
// (environment_config), NAME=VALUE (experiments, JAAS lines), and URLs.
func redactString(s string, depth int) string {
	if inner, ok := parseInner(s); ok {
		if out, err := json.Marshal(redactValue(inner, depth+1).AsInterface()); err == nil {
			return string(out)
		}
	}
	s = urlPassword.ReplaceAllString(s, "$1:"+Redacted+"@")
	return assignment.ReplaceAllStringFunc(s, func(m string) string {
		parts := assignment.FindStringSubmatch(m)
		if !secretName(parts[1]) {
			return m
		}
		return parts[1] + parts[2] + Redacted
	})
}

// leastSecret is the length from which on a secret's value is looked for in
// texts: shorter ones stand in any text by chance.
const leastSecret = 5

// Secrets are the values that Redact hides, the longest first, so that they can
// be hidden where options come back in other texts: workers log them.
func Secrets(o *structpb.Struct) []string {
	found := map[string]bool{}
	collectStruct(o, 0, func(s string) {
		if len(s) >= leastSecret && s != Redacted {
			found[s] = true
		}
	})
	return slices.SortedFunc(maps.Keys(found), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
	})
}

func collectStruct(o *structpb.Struct, depth int, found func(string)) {
	for name, v := range o.GetFields() {
		collect(v, depth+1, secretName(name), found)
	}
}

// collect finds the secrets in a value, all of whose texts are secret if it is.
func collect(v *structpb.Value, depth int, secret bool, found func(string)) {
	if depth > maxDepth {
		return
	}
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		for name, v := range k.StructValue.GetFields() {
			collect(v, depth+1, secret || secretName(name), found)
		}
	case *structpb.Value_ListValue:
		for _, v := range k.ListValue.GetValues() {
			collect(v, depth+1, secret, found)
		}
	case *structpb.Value_NumberValue:
		if secret {
			found(strconv.FormatFloat(k.NumberValue, 'f', -1, 64))
		}
	case *structpb.Value_StringValue:
		collectString(k.StringValue, depth, secret, found)
	}
}

func collectString(s string, depth int, secret bool, found func(string)) {
	if secret {
		found(s)
	}
	if v, ok := parseInner(s); ok {
		collect(v, depth+1, secret, found)
		return
	}
	for _, m := range urlPassword.FindAllStringSubmatch(s, -1) {
		found(m[2])
	}
	for _, m := range assignment.FindAllStringSubmatch(s, -1) {
		if secretName(m[1]) {
			found(strings.Trim(m[3], `"'`))
		}
	}
}

// parseInner reads a text that is a JSON object or list.
func parseInner(s string) (*structpb.Value, bool) {
	trimmed := strings.TrimSpace(s)
	if !strings.HasPrefix(trimmed, "{") && !strings.HasPrefix(trimmed, "[") {
		return nil, false
	}
	var v any
	if json.Unmarshal([]byte(trimmed), &v) != nil {
		return nil, false
	}
	inner, err := structpb.NewValue(v)
	return inner, err == nil
}

var (
	secretParts = []string{"password", "passwd", "passphrase", "secret", "token", "credential", "sasl", "jaas", "apikey", "accesskey", "privatekey", "authorization", "bearer"}
	secretWords = map[string]bool{"key": true, "keys": true, "pwd": true, "pass": true, "auth": true, "pat": true, "cookie": true, "signature": true}
)

// secretName reports whether a name sounds like a secret's.
func secretName(name string) bool {
	words := nameWords(name)
	joined := strings.Join(words, "")
	for _, p := range secretParts {
		if strings.Contains(joined, p) {
			return true
		}
	}
	for _, w := range words {
		if secretWords[w] {
			return true
		}
	}
	return false
}

// nameWords splits a name at what isn't a letter or digit and where camelCase
// begins a word, in lower case.
func nameWords(name string) []string {
	var words []string
	var b strings.Builder
	flush := func() {
		if b.Len() > 0 {
			words = append(words, strings.ToLower(b.String()))
			b.Reset()
		}
	}
	lower := false
	for _, r := range name {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			flush()
			lower = false
			continue
		}
		if unicode.IsUpper(r) && lower {
			flush()
		}
		lower = unicode.IsLower(r)
		b.WriteRune(r)
	}
	flush()
	return words
}
