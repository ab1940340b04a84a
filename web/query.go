package web

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"trestle/runner/joblog"
)

type messageQuery struct {
	after uint64
	max   int
	level joblog.Level
	wait  time.Duration
}

func parseMessageQuery(r *http.Request) (q messageQuery, err error) {
	q.max = 500
	v := r.URL.Query()
	if s := v.Get("after"); s != "" {
		if q.after, err = strconv.ParseUint(s, 10, 63); err != nil {
			return q, fmt.Errorf("after=%.40q: must be a number", s)
		}
	}
	if s := v.Get("max"); s != "" {
		if q.max, err = strconv.Atoi(s); err != nil || q.max < 1 || q.max > 10_000 {
			return q, fmt.Errorf("max=%.40q: must be from 1 to 10000", s)
		}
	}
	if s := v.Get("level"); s != "" {
		if err := q.level.UnmarshalText([]byte(s)); err != nil {
			return q, fmt.Errorf("level=%.40q: must be debug, info, warn, error or failure", s)
		}
	}
	if s := v.Get("wait"); s != "" {
		if q.wait, err = time.ParseDuration(s); err != nil || q.wait < 0 {
			return q, fmt.Errorf("wait=%.40q: must be a duration such as 10s", s)
		}
		q.wait = min(q.wait, 30*time.Second)
	}
	return q, nil
}
