package bucket

import (
	"context"
	"net/url"

	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
)

// partTries is how often the SDK itself tries a request, such as one part of
// an upload, before the whole is tried again here.
const partTries = 3

// openS3 opens an S3 bucket as gocloud's opener of URLs does, but with pauses
// between the SDK's own tries that fit ours: its usual ones are of seconds, and
// would multiply with our number of tries.
func openS3(ctx context.Context, u *url.URL, opts Options) (*blob.Bucket, error) {
	q := u.Query()
	prefix := q.Get("prefix")
	q.Del("prefix") // it is for all kinds of store, and the opener doesn't know it
	bare := *u
	bare.RawQuery = q.Encode()
	opener := &s3blob.URLOpener{}
	b, err := opener.OpenBucketURL(ctx, &bare)
	if err != nil {
		return nil, err
	}
	var client *s3.Client
	if b.As(&client) {
		config := client.Options()
		config.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = partTries
			o.MaxBackoff = min(4*opts.Pause, opts.MostPause)
			o.RateLimiter = ratelimit.None // our tries are bounded
		})
		if b, err = s3blob.OpenBucket(ctx, s3.New(config), u.Host, &opener.Options); err != nil {
			return nil, err
		}
	}
	if prefix != "" {
		b = blob.PrefixedBucket(b, prefix)
	}
	return b, nil
}
