"""Models to try Hallmark with: a really trained one out of a wheel, and a small one made here."""
