package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// endpoint is where an engine listens, and how to prove who is who.
type endpoint struct {
	host   string // as in DOCKER_HOST
	tlsDir string // with ca.pem, cert.pem and key.pem; empty: no TLS
}

// currentContext returns the name of the Docker CLI's current context; empty is the
// default one.
func currentContext(configDir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(configDir, "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var config struct {
		CurrentContext string `json:"currentContext"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return "", fmt.Errorf("read config.json: %w", err)
	}
	return config.CurrentContext, nil
}

// contextEndpoint reads a context of the Docker CLI. Its files are in folders named by
// the hash of the context's name.
func contextEndpoint(configDir, name string) (endpoint, error) {
	hash := sha256.Sum256([]byte(name))
	folder := hex.EncodeToString(hash[:])
	text, err := os.ReadFile(filepath.Join(configDir, "contexts", "meta", folder, "meta.json"))
	if err != nil {
		return endpoint{}, err
	}
	var meta struct {
		Endpoints struct {
			Docker struct {
				Host          string
				SkipTLSVerify bool
			} `json:"docker"`
		}
	}
	if err := json.Unmarshal(text, &meta); err != nil {
		return endpoint{}, fmt.Errorf("read meta.json: %w", err)
	}
	docker := meta.Endpoints.Docker
	if docker.Host == "" {
		return endpoint{}, errors.New("it has no Docker endpoint")
	}
	if docker.SkipTLSVerify {
		return endpoint{}, errors.New("it skips the check of the engine's certificate, which Dormouse never does")
	}
	end := endpoint{host: docker.Host}
	tlsDir := filepath.Join(configDir, "contexts", "tls", folder, "docker")
	if _, err := os.Stat(filepath.Join(tlsDir, "cert.pem")); err == nil {
		end.tlsDir = tlsDir
	}
	return end, nil
}
