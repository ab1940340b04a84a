package kafka

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// A Connection says how to reach a cluster, in the words of Kafka's clients.
type Connection struct {
	Servers  []string `json:"servers"`
	ClientID string   `json:"client_id,omitempty"`
	// Protocol is PLAINTEXT (or empty), SSL, SASL_PLAINTEXT or SASL_SSL.
	Protocol string `json:"protocol,omitempty"`
	// Mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
	Mechanism string `json:"mechanism,omitempty"`
	User      string `json:"user,omitempty"`
	Password  Secret `json:"password,omitempty"`
	// Authorities, Certificate and Key are PEM texts.
	Authorities string `json:"authorities,omitempty"`
	Certificate string `json:"certificate,omitempty"`
	Key         Secret `json:"key,omitempty"`
	// AnyName accepts a broker's certificate whatever name it is for.
	AnyName bool `json:"any_name,omitempty"`
	// Patience bounds how long something may go wrong before it is an error; 1
	// minute if 0. CallTimeout bounds one request; 30 s if 0.
	Patience    time.Duration `json:"patience,omitempty"`
	CallTimeout time.Duration `json:"call_timeout,omitempty"`
}

// A Secret is not shown when it is printed. It is in the JSON, since workers
// need it.
type Secret string

// String hides the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[hidden]"
}

// GoString hides the secret.
func (s Secret) GoString() string { return s.String() }

func (c Connection) encrypted() bool { return strings.HasSuffix(c.Protocol, "SSL") }

// tlsConfig is nil where nothing is encrypted.
func (c Connection) tlsConfig() (*tls.Config, error) {
	if !c.encrypted() {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.Authorities != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(c.Authorities)) {
			return nil, errors.New("ssl.truststore.certificates holds no certificate in PEM form")
		}
	}
	if c.Certificate != "" || c.Key != "" {
		pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.Key))
		if err != nil {
			// Not the cause: it may quote what should be hidden.
			return nil, errors.New("ssl.keystore.certificate.chain and ssl.keystore.key are not a certificate and its unencrypted key in PEM form")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if c.AnyName {
		anyName(config)
	}
	return config, nil
}

// anyName checks a certificate's chain, and not its name.
func anyName(config *tls.Config) {
	roots := config.RootCAs
	config.InsecureSkipVerify = true // #nosec: VerifyConnection below does all but the name
	config.VerifyConnection = func(s tls.ConnectionState) error {
		between := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
		return err
	}
}

// mechanism is nil where nobody logs in.
func (c Connection) mechanism() (sasl.Mechanism, error) {
	if !strings.HasPrefix(c.Protocol, "SASL") {
		return nil, nil
	}
	switch c.Mechanism {
	case "PLAIN":
		return plain.Mechanism{Username: c.User, Password: string(c.Password)}, nil
	case "SCRAM-SHA-256":
		return scram.Mechanism(scram.SHA256, c.User, string(c.Password))
	case "SCRAM-SHA-512":
		return scram.Mechanism(scram.SHA512, c.User, string(c.Password))
	}
	return nil, fmt.Errorf("sasl.mechanism %q is not supported; use PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.Mechanism)
}

// loginModules are the classes that sasl.jaas.config may name.
var loginModules = []string{
	"org.apache.kafka.common.security.plain.PlainLoginModule",
	"org.apache.kafka.common.security.scram.ScramLoginModule",
}

// parseJAAS reads user and password from a sasl.jaas.config. Its errors quote
// nothing of it.
func parseJAAS(text string) (user string, password Secret, err error) {
	words, err := jaasWords(text)
	if err != nil {
		return "", "", err
	}
	if len(words) < 2 || (words[0] != loginModules[0] && words[0] != loginModules[1]) {
		return "", "", fmt.Errorf("sasl.jaas.config must begin with one of %s", strings.Join(loginModules, ", "))
	}
	if words[1] != "required" {
		return "", "", errors.New("sasl.jaas.config must say required after the module")
	}
	found := map[string]string{}
	for _, w := range words[2:] {
		name, value, ok := strings.Cut(w, "=")
		if !ok || (name != "username" && name != "password") {
			return "", "", errors.New("sasl.jaas.config may set username and password, nothing else")
		}
		found[name] = value
	}
	if found["username"] == "" {
		return "", "", errors.New("sasl.jaas.config sets no username")
	}
	return found["username"], Secret(found["password"]), nil
}

// jaasWords cuts at spaces outside quotes, up to the semicolon.
func jaasWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, inWord := rune(0), false
	flush := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	runes := []rune(text)
	for i := 0; i < len(runes); i++ {
		r := runes[i]
		switch {
		case quote != 0 && r == '\\' && i+1 < len(runes):
			i++
			word.WriteRune(runes[i])
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n':
			flush()
		case r == ';':
			flush()
			if strings.TrimSpace(string(runes[i+1:])) != "" {
				return nil, errors.New("sasl.jaas.config may have one login module")
			}
			return words, nil
		default:
			inWord = true
			word.WriteRune(r)
		}
	}
	return nil, errors.New("sasl.jaas.config must end with a semicolon outside quotes")
}
