package bundle

import (
	"strings"
	"testing"
)

// The first thing to be read of a failure is the user's exception.
func TestHeadline(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"Python", "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    int(x)\nValueError: inner\n\nDuring handling of the above exception, another exception occurred:\n\n" +
			"Traceback (most recent call last):\n  File \"b.py\", line 2, in g\n    f(x)\n    ^^^^\nValueError: no number: 'x' [while running 'Parse']\n\n", "ValueError: no number: 'x'"},
		{"Python, of several lines", "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    f()\nmine.Bad: first\n  second\nthird", "mine.Bad: first"},
		{"Python, cut off", "Traceback (most recent call last):\n  File \"a.py\", line 1", "Traceback (most recent call last):"},
		{"Java", "org.apache.beam.sdk.util.UserCodeException: java.lang.IllegalStateException: not a number\n\tat a.B.c(B.java:1)\nCaused by: java.lang.NumberFormatException: x\n\tat d.E.f(E.java:2)", "java.lang.IllegalStateException: not a number"},
		{"Java, wrapped twice", "java.util.concurrent.ExecutionException: org.apache.beam.sdk.util.UserCodeException: java.lang.NullPointerException\n\tat a.B.c(B.java:1)", "java.lang.NullPointerException"},
		{"Java, the user's own", "java.lang.RuntimeException: boom: it went wrong\n\tat a.B.c(B.java:1)", "java.lang.RuntimeException: boom: it went wrong"},
		{"Go", "process bundle failed for instruction i6 using plan s1/0 : while executing Process for Plan[s1/0]:\n4: ParDo[main.parse] Out:[3]\n\tcaused by:\nDoFn[UID:4, PID:e3, Name: main.parse] failed:\n" +
			"not a number:\nstrconv.Atoi: invalid syntax\nx/exec.(*ParDo).processSingleWindow(0x47)\n\t/x/pardo.go:194 +0x95", "not a number: strconv.Atoi: invalid syntax"},
		{"Go's panic", "process bundle failed : panic: what\nFull error:\nwhile executing\n\tcaused by:\npanic: what is this goroutine 81 [running]:\nruntime/debug.Stack()\n\t/usr/stack.go:26 +0x5e", "panic: what is this"},
		{"one line", "boom", "boom"},
		{"nothing", "", ""},
		{"long", strings.Repeat("é", 1000), strings.Repeat("é", maxHeadline-1) + "…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Headline(tt.text); got != tt.want {
				t.Errorf("Headline = %q, want %q", got, tt.want)
			}
		})
	}
}
