package main

import (
	"encoding/json"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageName is the image's, as in compose/agent.
const imageName = "shoal/agent"

// writeImage makes an archive of an OCI image with the agent in it, as
// compose/agent/Dockerfile makes one. It is an OCI layout (image-layout.md of the
// image specification), with the manifest.json besides by which engines load it that
// know docker save's format only.
func writeImage(r release, arch string, program []byte, to string) error {
	layout := layout{}
	layer, err := archive(r, []file{{path: "/shoal/shoal", mode: 0o755, content: program}})
	if err != nil {
		return err
	}
	packed, err := compress(layer)
	if err != nil {
		return err
	}
	config := ocispec.Image{
		Created:  &r.date,
		Platform: ocispec.Platform{Architecture: arch, OS: "linux"},
		Config: ocispec.ImageConfig{
			Env:        []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin:/shoal"},
			Entrypoint: []string{"/shoal/shoal"}, Cmd: []string{"agent"},
			Labels: map[string]string{ocispec.AnnotationVersion: r.version, ocispec.AnnotationRevision: r.commit},
		},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	}
	tag := imageName + ":" + strings.ReplaceAll(r.version, "+", "-") // a tag has no +
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: []ocispec.Descriptor{layout.blob(ocispec.MediaTypeImageLayerGzip, packed)},
	}
	if manifest.Config, err = layout.document(ocispec.MediaTypeImageConfig, config); err != nil {
		return err
	}
	top, err := layout.document(ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return err
	}
	top.Platform = &ocispec.Platform{Architecture: arch, OS: "linux"}
	top.Annotations = map[string]string{"io.containerd.image.name": "docker.io/" + tag, ocispec.AnnotationRefName: tag}
	for name, v := range map[string]any{
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
		ocispec.ImageIndexFile: ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{top},
		},
		"manifest.json": []map[string]any{{
			"Config": blobPath(manifest.Config), "RepoTags": []string{tag, imageName + ":latest"}, "Layers": []string{blobPath(manifest.Layers[0])},
		}},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		layout[name] = b
	}
	var files []file
	for path, b := range layout {
		files = append(files, file{path: path, mode: 0o644, content: b})
	}
	b, err := archive(r, files)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

// layout are the files of an OCI layout by their paths.
type layout map[string][]byte

// blob adds something that is found by its digest.
func (l layout) blob(mediaType string, b []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	l[blobPath(d)] = b
	return d
}

// document adds something that is written as JSON.
func (l layout) document(mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return l.blob(mediaType, b), nil
}

func blobPath(d ocispec.Descriptor) string {
	return "blobs/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded()
}
