from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    operations = [
        migrations.CreateModel(
            name="Line",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("room", models.CharField(db_index=True, max_length=32)),
                ("text", models.TextField()),
                ("said_at", models.DateTimeField(auto_now_add=True)),
            ],
        ),
    ]
