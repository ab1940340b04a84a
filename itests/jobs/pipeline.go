package jobs

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/core/sdf"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/io/rtrackers/offsetrange"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
)

func init() {
	beam.RegisterType(reflect.TypeFor[sourceFn]())
	beam.RegisterType(reflect.TypeFor[saltFn]())
	beam.RegisterType(reflect.TypeFor[drawFn]())
	beam.RegisterType(reflect.TypeFor[firstFn]())
	beam.RegisterType(reflect.TypeFor[secondFn]())
	beam.RegisterType(reflect.TypeFor[publishFn]())
	register.Emitter1[int64]()
	register.Emitter1[string]()
	register.Emitter2[int64, string]()
	register.Iter1[string]()
}

// A Shape is how large a pipeline is, and where it writes.
type Shape struct {
	// Dir is a directory that every worker can write to.
	Dir string
	// Elements are numbered from 0.
	Elements int
	// FirstKeys are drawn from by chance; SecondKeys follow from the number.
	FirstKeys, SecondKeys int
	// Pause is what each element takes in each of source, draw, first and second.
	Pause time.Duration
	// Payload makes elements heavier, by bytes that don't compress.
	Payload int
	// Splits are the restrictions that the source begins with.
	Splits int
}

// Build adds the pipeline to a scope.
func (s Shape) Build(scope beam.Scope) {
	if s.Splits == 0 {
		s.Splits = 2
	}
	source := beam.ParDo(scope, &sourceFn{s}, beam.Impulse(scope))
	salt := beam.ParDo(scope, &saltFn{s}, beam.Reshuffle(scope.Scope("Once"), beam.Impulse(scope)))
	drawn := beam.ParDo(scope, &drawFn{s}, beam.Reshuffle(scope, source))
	first := beam.ParDo(scope, &firstFn{s}, beam.GroupByKey(scope.Scope("First"), drawn), beam.SideInput{Input: salt})
	second := beam.ParDo(scope, &secondFn{s}, beam.GroupByKey(scope.Scope("Second"), first))
	named := beam.AddFixedKey(scope, second)
	beam.ParDo0(scope, &publishFn{s}, beam.GroupByKey(scope.Scope("Publish"), named))
}

// step notes that an element is begun with, and takes its time.
func (s Shape) step(name string, id any) error {
	if err := note(s.Dir, name, id); err != nil {
		return err
	}
	time.Sleep(s.Pause)
	return nil
}

// sourceFn gives the numbers. Its restriction can be split at any of them.
type sourceFn struct{ Shape }

func (f *sourceFn) CreateInitialRestriction([]byte) offsetrange.Restriction {
	return offsetrange.Restriction{End: int64(f.Elements)}
}

func (f *sourceFn) SplitRestriction(_ []byte, r offsetrange.Restriction) []offsetrange.Restriction {
	return r.EvenSplits(int64(f.Splits))
}

func (f *sourceFn) RestrictionSize(_ []byte, r offsetrange.Restriction) float64 { return r.Size() }

func (f *sourceFn) CreateTracker(r offsetrange.Restriction) *sdf.LockRTracker {
	return sdf.NewLockRTracker(offsetrange.NewTracker(r))
}

func (f *sourceFn) ProcessElement(rt *sdf.LockRTracker, _ []byte, emit func(int64)) error {
	for at := rt.GetRestriction().(offsetrange.Restriction).Start; rt.TryClaim(at); at++ {
		if err := f.step(Source, at); err != nil {
			return err
		}
		emit(at)
	}
	return nil
}

// saltFn says one word, another one each time it is asked.
type saltFn struct{ Shape }

func (f *saltFn) ProcessElement(_ []byte, emit func(string)) error {
	if err := note(f.Dir, Salt, 0); err != nil {
		return err
	}
	emit(rand.Text()[:8])
	return nil
}

// drawFn gives each element a key by chance.
type drawFn struct{ Shape }

func (f *drawFn) ProcessElement(id int64, emit func(int64, string)) error {
	if err := f.step(Draw, id); err != nil {
		return err
	}
	key := mathrand.Int64N(int64(f.FirstKeys))
	emit(key, fmt.Sprintf("%d %d %s", id, key, newPayload(f.Payload)))
	return nil
}

// newPayload is about so many bytes of chance, which end with their hash.
func newPayload(size int) string {
	if size == 0 {
		return ""
	}
	b := make([]byte, size/2)
	_, _ = rand.Read(b) // never fails
	sum := sha256.Sum256(b)
	return hex.EncodeToString(b) + "-" + hex.EncodeToString(sum[:])
}

// checkPayload finds what was changed on the way.
func checkPayload(p string) error {
	if p == "" {
		return nil
	}
	text, want, _ := strings.Cut(p, "-")
	b, err := hex.DecodeString(text)
	if err != nil {
		return fmt.Errorf("its payload was changed: %w", err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != want {
		return errors.New("its payload was changed")
	}
	return nil
}

// firstFn sees what was drawn together, and sends each element on by its
// number. Written into each is the group and what the side input said.
type firstFn struct{ Shape }

func (f *firstFn) ProcessElement(key int64, values, salts func(*string) bool, emit func(int64, string)) error {
	var salt []string
	for s := ""; salts(&s); {
		salt = append(salt, s)
	}
	group := rand.Text()[:8]
	for v := ""; values(&v); {
		e, err := parseElement(v)
		if err != nil {
			return err
		}
		if err := f.step(First, e.id); err != nil {
			return err
		}
		e.group, e.salt, e.read = group, strings.Join(salt, "+"), key
		emit(e.id%int64(f.SecondKeys), e.String())
	}
	return nil
}

// secondFn writes one part of the result and tells its name.
type secondFn struct{ Shape }

func (f *secondFn) ProcessElement(key int64, values func(*string) bool) (string, error) {
	var lines []string
	for v := ""; values(&v); {
		e, err := parseElement(v)
		if err != nil {
			return "", err
		}
		if err := f.step(Second, e.id); err != nil {
			return "", err
		}
		if err := checkPayload(e.payload); err != nil {
			return "", fmt.Errorf("element %d: %w", e.id, err)
		}
		e.payload = ""
		lines = append(lines, fmt.Sprintf("%d %s", key, e.String()))
	}
	slices.Sort(lines)
	name := filepath.Join("parts", rand.Text())
	return name, appear(filepath.Join(f.Dir, name), lines)
}

// publishFn says which parts are the result.
type publishFn struct{ Shape }

func (f *publishFn) ProcessElement(_ int, names func(*string) bool) error {
	if err := note(f.Dir, Publish, 0); err != nil {
		return err
	}
	var all []string
	for n := ""; names(&n); {
		all = append(all, n)
	}
	return appear(filepath.Join(f.Dir, manifest), all)
}

const manifest = "manifest"

// appear writes a file that is there whole or not at all.
func appear(path string, lines []string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temp := path + "." + rand.Text()
	if err := os.WriteFile(temp, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// An element as it is written between the steps: its number, the key that was
// drawn, and what first adds.
type element struct {
	id, drawn   int64
	payload     string
	group, salt string // "" before first
	read        int64  // the key that first read it by
}

func (e element) String() string {
	return fmt.Sprintf("%d %d %s %s %d %s", e.id, e.drawn, e.group, e.salt, e.read, e.payload)
}

func parseElement(text string) (e element, err error) {
	f := strings.Split(text, " ")
	switch len(f) {
	case 3:
		e.payload = f[2]
		_, err = fmt.Sscan(f[0]+" "+f[1], &e.id, &e.drawn)
	case 6:
		e.group, e.salt, e.payload = f[2], f[3], f[5]
		_, err = fmt.Sscan(f[0]+" "+f[1]+" "+f[4], &e.id, &e.drawn, &e.read)
	default:
		err = fmt.Errorf("an element of %d words", len(f))
	}
	if err != nil {
		return e, fmt.Errorf("element %.80q: %w", text, err)
	}
	return e, nil
}

// Pipeline builds a pipeline of this shape by itself.
func (s Shape) Pipeline() *beam.Pipeline {
	p, scope := beam.NewPipelineWithRoot()
	s.Build(scope)
	return p
}
