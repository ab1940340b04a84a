package task

import (
	"slices"
	"testing"

	"trestle/fnapi"
)

// What a worker has cached counts as long as no other one has had the keys, and
// nothing has failed.
func TestUserTokens(t *testing.T) {
	a, b := new(fnapi.Worker), new(fnapi.Worker)
	var tokens userTokens
	of := func(w *fnapi.Worker) string { return string(tokens.of(w, ID{Job: "j", Stage: "s"}).GetToken()) }
	first := of(a)
	if again := of(a); again != first || tokens.held() != a {
		t.Errorf("the same worker has %s after %s", again, first)
	}
	seen := []string{first}
	for _, step := range []struct {
		name string
		do   func()
		by   *fnapi.Worker
	}{
		{"another worker", func() {}, b},
		{"the first one again", func() {}, a},
		{"a failure", tokens.renew, a},
		{"a failure before another worker", tokens.renew, b},
	} {
		step.do()
		token := of(step.by)
		if slices.Contains(seen, token) {
			t.Errorf("%s: the token %s is an old one", step.name, token)
		}
		seen = append(seen, token)
	}
	if other := tokens.of(b, ID{Job: "j", Stage: "s", Attempt: 1}); slices.Contains(seen, string(other.GetToken())) {
		t.Errorf("another attempt has the token %s, too", other.GetToken())
	}
}
