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

// endpoint is the address of an engine and the folder with the TLS certificates for connections to the engine.
type endpoint struct {
	host   string // the engine's address, as in DOCKER_HOST
	tlsDir string // contains ca.pem, cert.pem and key.pem; empty means no TLS
}

// currentContext returns the name of the Docker CLI's current context. It is empty for the default context.
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

// contextEndpoint returns the endpoint of a context of the Docker CLI. The CLI stores each context in a folder that
// is named by the SHA-256 hash of the context's name.
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
		return endpoint{}, errors.New("the context has no Docker endpoint")
	}
	if docker.SkipTLSVerify {
		return endpoint{}, errors.New("the context skips the check of the engine's certificate, which Dormouse does not support")
	}
	end := endpoint{host: docker.Host}
	tlsDir := filepath.Join(configDir, "contexts", "tls", folder, "docker")
	if _, err := os.Stat(filepath.Join(tlsDir, "cert.pem")); err == nil {
		end.tlsDir = tlsDir
	}
	return end, nil
}
