package dockerwatch

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"shoal/model"
)

// effectiveLabels are the labels of a container that are obeyed, and the shoal
// labels that are not, by name. Those of its image are not: who made the image
// is not who runs it. An image gives a container its HEALTHCHECK and the ports
// that it listens on, and has no say in which service it joins, what it
// publishes, or in which stack its names are looked up.
//
// An engine tells the labels of both as one. So a label that the container was
// given with the very value that it has in the image counts for the image's: it
// cannot be told apart, and is not obeyed either.
//
// The project of Compose is an exception to that, as Compose builds images with
// its label and gives it to their containers as well. It counts where the
// container has a label besides that only Compose gives, and to containers only.
func effectiveLabels(labels, image map[string]string) (own map[string]string, ignored []string) {
	ofImage := func(label string) bool {
		was, there := image[label]
		return there && was == labels[label]
	}
	_, composed := labels[composeLabel]
	composed = composed && !ofImage(composeLabel)
	own = maps.Clone(labels)
	for label := range labels {
		switch {
		case !ofImage(label):
		case isOurs(label):
			ignored = append(ignored, label)
			delete(own, label)
		case label == projectLabel && !composed:
			delete(own, label)
		}
	}
	slices.Sort(ignored)
	return own, ignored
}

// maxNamed is how many of the labels that are ignored are named.
const maxNamed = 5

// imageNotice says that labels are ignored, if any are, and what to do.
func imageNotice(ignored []string) (n []model.Notice) {
	if len(ignored) == 0 {
		return nil
	}
	var names []string
	for _, label := range ignored[:min(len(ignored), maxNamed)] {
		names = append(names, fmt.Sprintf("%.80q", label))
	}
	if more := len(ignored) - maxNamed; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return append(n, model.Notice{Code: model.LabelsOfImage, Text: fmt.Sprintf("labels of its image are not obeyed: %s; a label given to the container counts, "+
		"unless the image has it with the same value: build the image without it, or write it as %sservices.NAME.KEY", strings.Join(names, ", "), labelPrefix)})
}
