package jobservice

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"
)

// Secrets go wherever they are; what is no secret stays.
func TestRedact(t *testing.T) {
	var in structpb.Struct
	err := in.UnmarshalJSON([]byte(`{
		"beam:option:job_name:v1": "keep-name",
		"beam:option:monkey:v1": "keep-monkey",
		"dbPassword": "S1", "API_KEY": "S2", "awsSecretAccessKey": ["S3", {"a": "S4"}],
		"beam:option:google_credentials:v1": {"x": "S5"},
		"sasl.jaas.config": "module required username=\"u\" password=\"S6\";",
		"experiments": ["keep-exp", "my_token=S7", "k=keep-v"],
		"environment_config": "{\"command\": \"keep-cmd\", \"env\": {\"API_TOKEN\": \"S8\"}}",
		"nested": {"deep": {"consumer_config": {"ssl.keystore.password": "S9", "group.id": "keep-group"}}},
		"url": "postgres://keep-user:S10@keep-host/db",
		"use_key": true, "token": 12345
	}`))
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(Redact(&in).AsMap())
	if err != nil {
		t.Fatal(err)
	}
	text := string(out)
	for _, secret := range []string{"S1\"", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "12345"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is shown: %s", secret, text)
		}
	}
	for _, kept := range []string{"keep-name", "keep-monkey", "keep-exp", "keep-v", "keep-cmd", "keep-group", "keep-user", "keep-host", `"use_key":true`} {
		if !strings.Contains(text, kept) {
			t.Errorf("%s is gone: %s", kept, text)
		}
	}
}

// The values of secrets are known, wherever they stand.
func TestSecrets(t *testing.T) {
	var o structpb.Struct
	if err := o.UnmarshalJSON([]byte(`{"beam:option:db_password:v1": "hunter2!", "url": "kafka://u:pa55word@h:1", "n": {"apiKey": 1234567, "deep": ["token=abcdefg"]},
		"environment_config": "{\"env\": {\"AWS_SECRET_ACCESS_KEY\": \"wJalr\"}}", "pin_token": "123", "plain": "nothing here"}`)); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(Secrets(&o), " "), "hunter2! pa55word 1234567 abcdefg wJalr"; got != want {
		t.Errorf("Secrets = %q, want %q", got, want)
	}
	if got := Secrets(nil); got != nil {
		t.Errorf("of nothing: %q", got)
	}
}

// Each client's way to write an option is read.
func TestParseSettings(t *testing.T) {
	for name, in := range map[string]string{
		"python":      `{"beam:option:sdk_worker_parallelism:v1": "4", "beam:option:restart_attempts:v1": "0", "beam:option:restart_delay:v1": "10s"}`,
		"bare":        `{"sdk_worker_parallelism": 4, "restart_attempts": 0, "restart_delay": "10s"}`,
		"go":          `{"beam:option:go_options:v1": {"options": {"sdk_worker_parallelism": "4", "restart_attempts": "0", "restart_delay": "10s"}}}`,
		"experiments": `{"beam:option:experiments:v1": ["beam_fn_api", "sdk_worker_parallelism=4", "restart_attempts=0", "restart_delay=10s", "other=x"]}`,
		"an option counts more than an experiment": `{"sdk_worker_parallelism": 4, "experiments": ["sdk_worker_parallelism=5", "restart_attempts=0", "restart_delay=10s"]}`,
	} {
		var o structpb.Struct
		if err := o.UnmarshalJSON([]byte(in)); err != nil {
			t.Fatal(err)
		}
		s, err := ParseSettings(&o)
		if err != nil || s.SDKWorkerParallel != 4 || s.RestartAttempts == nil || *s.RestartAttempts != 0 || s.RestartDelay.Seconds() != 10 {
			t.Errorf("%s: %+v %v", name, s, err)
		}
	}
	for _, in := range []string{
		`{"priority": 11}`, `{"priority": 1.5}`, `{"priority": {}}`, `{"exchange_mode": "x"}`, `{"restart_delay": -1}`,
		`{"restart_attempts": "-2"}`, `{"experiments": ["priority=x"]}`, `{"streaming": "perhaps"}`, `{"sdk_worker_parallelism": "99999999999999999999"}`,
	} {
		var o structpb.Struct
		if err := o.UnmarshalJSON([]byte(in)); err != nil {
			t.Fatal(err)
		}
		if _, err := ParseSettings(&o); err == nil {
			t.Errorf("%s was taken", in)
		}
	}
	for in, want := range map[string]bool{
		`{}`: false, `{"streaming": true}`: true, `{"beam:option:streaming:v1": "True"}`: true, `{"streaming": false}`: false,
		`{"experiments": ["streaming=true"]}`: true,
	} {
		var o structpb.Struct
		if err := o.UnmarshalJSON([]byte(in)); err != nil {
			t.Fatal(err)
		}
		if s, err := ParseSettings(&o); err != nil || s.Streaming != want {
			t.Errorf("%s: streaming is %v (%v)", in, s.Streaming, err)
		}
	}
	if s, err := ParseSettings(nil); err != nil || s.Priority != 0 || s.RestartAttempts != nil {
		t.Errorf("no options: %+v %v", s, err)
	}
}
