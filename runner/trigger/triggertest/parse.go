// Package triggertest reads triggers as tests write them, which is how Tree
// prints them:
//
//	default  eow  eow(early=T, late=T)  count(3)  after(delay 5000, align 60000+0)
//	synchronized  always  never  all(T, T)  any(T, T)  each(T, T)  orFinally(T, T)  repeat(T)
package triggertest

import (
	"fmt"
	"strconv"
	"strings"

	pipepb "github.com/apache/beam/sdks/v2/go/pkg/beam/model/pipeline_v1"
)

// Parse reads one trigger. It panics if the text is none, for a test's text is
// wrong then.
func Parse(text string) *pipepb.Trigger {
	p := &parser{rest: text}
	t := p.trigger()
	if p.space(); p.rest != "" {
		p.fail("the end")
	}
	return t
}

type parser struct{ rest string }

func (p *parser) fail(want string) {
	panic(fmt.Sprintf("trigger: want %s at %q", want, p.rest))
}

func (p *parser) space() { p.rest = strings.TrimLeft(p.rest, " ") }

// eat skips s if it is next.
func (p *parser) eat(s string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.rest, s)
	p.rest = rest
	return ok
}

// word reads letters.
func (p *parser) word() string {
	p.space()
	n := strings.IndexFunc(p.rest, func(r rune) bool { return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') })
	if n < 0 {
		n = len(p.rest)
	}
	w := p.rest[:n]
	p.rest = p.rest[n:]
	return w
}

func (p *parser) number() int64 {
	p.space()
	n := strings.IndexFunc(p.rest, func(r rune) bool { return (r < '0' || r > '9') && r != '-' })
	if n < 0 {
		n = len(p.rest)
	}
	v, err := strconv.ParseInt(p.rest[:n], 10, 64)
	if err != nil {
		p.fail("a number")
	}
	p.rest = p.rest[n:]
	return v
}

// args calls each for what is between parentheses, if there are any.
func (p *parser) args(each func()) {
	if !p.eat("(") {
		return
	}
	for !p.eat(")") {
		each()
		p.eat(",")
	}
}

func (p *parser) subs() (subs []*pipepb.Trigger) {
	p.args(func() { subs = append(subs, p.trigger()) })
	return subs
}

func (p *parser) trigger() *pipepb.Trigger {
	switch name := p.word(); name {
	case "default":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_Default_{Default: &pipepb.Trigger_Default{}}}
	case "always":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_Always_{Always: &pipepb.Trigger_Always{}}}
	case "never":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_Never_{Never: &pipepb.Trigger_Never{}}}
	case "synchronized":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterSynchronizedProcessingTime_{
			AfterSynchronizedProcessingTime: &pipepb.Trigger_AfterSynchronizedProcessingTime{},
		}}
	case "count":
		c := &pipepb.Trigger_ElementCount{}
		p.args(func() { c.ElementCount = int32(p.number()) })
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_ElementCount_{ElementCount: c}}
	case "after":
		return p.after()
	case "eow":
		e := &pipepb.Trigger_AfterEndOfWindow{}
		p.args(func() {
			if p.eat("early=") {
				e.EarlyFirings = p.trigger()
			} else if p.eat("late=") {
				e.LateFirings = p.trigger()
			} else {
				p.fail("early= or late=")
			}
		})
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEndOfWindow_{AfterEndOfWindow: e}}
	default:
		return p.composite(name)
	}
}

func (p *parser) after() *pipepb.Trigger {
	t := &pipepb.Trigger_AfterProcessingTime{}
	p.args(func() {
		tr := &pipepb.TimestampTransform{}
		if p.eat("delay") {
			tr.TimestampTransform = &pipepb.TimestampTransform_Delay_{
				Delay: &pipepb.TimestampTransform_Delay{DelayMillis: p.number()},
			}
		} else if p.eat("align") {
			a := &pipepb.TimestampTransform_AlignTo{Period: p.number()}
			if p.eat("+") {
				a.Offset = p.number()
			}
			tr.TimestampTransform = &pipepb.TimestampTransform_AlignTo_{AlignTo: a}
		} else {
			p.fail("delay or align")
		}
		t.TimestampTransforms = append(t.TimestampTransforms, tr)
	})
	return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterProcessingTime_{AfterProcessingTime: t}}
}

func (p *parser) composite(name string) *pipepb.Trigger {
	at := p.rest
	subs := p.subs()
	exactly := map[string]int{"orFinally": 2, "repeat": 1}[name]
	if exactly > 0 && len(subs) != exactly {
		panic(fmt.Sprintf("trigger: %s%s has %d parts instead of %d", name, at, len(subs), exactly))
	}
	switch name {
	case "all":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAll_{AfterAll: &pipepb.Trigger_AfterAll{Subtriggers: subs}}}
	case "any":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterAny_{AfterAny: &pipepb.Trigger_AfterAny{Subtriggers: subs}}}
	case "each":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_AfterEach_{AfterEach: &pipepb.Trigger_AfterEach{Subtriggers: subs}}}
	case "orFinally":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_OrFinally_{
			OrFinally: &pipepb.Trigger_OrFinally{Main: subs[0], Finally: subs[1]},
		}}
	case "repeat":
		return &pipepb.Trigger{Trigger: &pipepb.Trigger_Repeat_{Repeat: &pipepb.Trigger_Repeat{Subtrigger: subs[0]}}}
	}
	panic(fmt.Sprintf("trigger: %q is none", name))
}
