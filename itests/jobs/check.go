package jobs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A verdict gathers what is wrong with a result, the first few of each kind.
type verdict struct {
	wrong map[string]int
	first map[string]string
}

func (v *verdict) say(kind, format string, args ...any) {
	if v.wrong == nil {
		v.wrong, v.first = map[string]int{}, map[string]string{}
	}
	if v.wrong[kind] == 0 {
		v.first[kind] = fmt.Sprintf(format, args...)
	}
	v.wrong[kind]++
}

func (v *verdict) error() error {
	var errs []error
	for kind, n := range v.wrong {
		errs = append(errs, fmt.Errorf("%s: %d times, first: %s", kind, n, v.first[kind]))
	}
	return errors.Join(errs...)
}

// Check compares the result with what it has to be: each number once, under its
// second key, with the key that was drawn for it; all elements of one drawn key
// seen by one run of first; all with one salt.
func (s Shape) Check() error {
	listed, err := os.ReadFile(filepath.Join(s.Dir, manifest))
	if err != nil {
		return fmt.Errorf("there is no result: %w", err)
	}
	var v verdict
	seen := make([]int, s.Elements)
	groups := map[int64]string{}
	seconds := map[int64]string{}
	salt := ""
	for name := range strings.FieldsSeq(string(listed)) {
		text, err := os.ReadFile(filepath.Join(s.Dir, name))
		if err != nil {
			return fmt.Errorf("a part of the result: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			second, e, err := parseLine(strings.TrimSuffix(line, "\n"))
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if e.id < 0 || e.id >= int64(s.Elements) {
				v.say("numbers that never were", "%d", e.id)
				continue
			}
			seen[e.id]++
			if second != e.id%int64(s.SecondKeys) {
				v.say("wrong second key", "%d has %d", e.id, second)
			}
			if part, ok := seconds[second]; ok && part != name {
				v.say("second keys grouped twice", "%d", second)
			}
			seconds[second] = name
			if e.drawn != e.read {
				v.say("in a group of another key", "%d was drawn %d and read by %d", e.id, e.drawn, e.read)
			}
			if g, ok := groups[e.drawn]; ok && g != e.group {
				v.say("groups of two generations", "key %d has the groups %s and %s", e.drawn, g, e.group)
			}
			groups[e.drawn] = e.group
			if salt != "" && salt != e.salt {
				v.say("side inputs of two generations", "%s and %s", salt, e.salt)
			}
			salt = e.salt
		}
	}
	for id, n := range seen {
		switch {
		case n == 0:
			v.say("lost", "%d", id)
		case n > 1:
			v.say("doubled", "%d is there %d times", id, n)
		}
	}
	if s.Elements > 0 && len(salt) != 8 {
		v.say("a side input of other than one word", "%q", salt)
	}
	return v.error()
}

func parseLine(line string) (second int64, e element, err error) {
	key, rest, _ := strings.Cut(line, " ")
	if _, err := fmt.Sscan(key, &second); err != nil {
		return 0, e, fmt.Errorf("line %.80q: %w", line, err)
	}
	e, err = parseElement(rest)
	return second, e, err
}
