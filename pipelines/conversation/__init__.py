"""Multi-turn image editing: instructions become edits of a scene, and only the edited regions are rendered."""
